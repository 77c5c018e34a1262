"""Makes torch and bitsandbytes tell less of the processor than they find; see scripts/as-processor, which puts this
folder on PYTHONPATH. Python imports it at every start; it acts when one of the modules is imported.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

_AT_LEAST = {"_is_avx512_supported": "avx512", "_is_avx512_bf16_supported": "", "_is_vnni_supported": "",
             "_is_amx_tile_supported": "", "_is_amx_fp16_supported": ""}  # fmt: skip


def _torch_cpu(module: ModuleType) -> None:
    mask = os.environ["TESTS_PROCESSOR_MASK"]
    for name, level in _AT_LEAST.items():
        if hasattr(module, name) and level != mask:
            setattr(module, name, lambda: False)


def _bitsandbytes(module: ModuleType) -> None:
    if hasattr(module, "has_avx512bf16"):
        setattr(module, "has_avx512bf16", lambda: False)  # noqa: B010  # mypy knows no such attribute of a module


_PATCHES: dict[str, Callable[[ModuleType], None]] = {
    "torch.cpu": _torch_cpu,
    "bitsandbytes.functional": _bitsandbytes,
}


class _Patcher(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
        if name not in _PATCHES:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def run_and_patch(module: ModuleType) -> None:
                run(module)
                _PATCHES[name](module)

            spec.loader.exec_module = run_and_patch  # type: ignore[method-assign]
        return spec


if os.environ.get("TESTS_PROCESSOR_MASK"):
    sys.meta_path.insert(0, _Patcher())
