"""A base model whose weights are a pickle becomes one with safetensors, without running what a stranger pickled.

The other files are taken as they are. Imports torch only when called.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from loradock_adapters.base_layers import INDEX_FILE, SINGLE_FILE
from loradock_adapters.errors import BaseModelError
from loradock_adapters.files import sync_folder

_PICKLES = "pytorch_model*.bin"


def convert_base(source: Path, out: Path, *, progress: Callable[[str], None] = lambda _: None) -> Path:
    """Write `source` to the new folder `out` with its pytorch_model*.bin as safetensors, one file for each.

    `out` appears when it is complete. Tensors that share memory are written once, as safetensors want it; what
    transformers ties, it ties again. Raises BaseModelError.
    """
    pickles = sorted(source.glob(_PICKLES))
    if not pickles:
        raise BaseModelError(f"{source} has no {_PICKLES}: there is nothing to convert")
    if out.exists():
        raise BaseModelError(f"{out} exists; move it away, or serve it: loradock serve --model {out}")
    work = out.with_name(f".{out.name}.partial")
    shutil.rmtree(work, ignore_errors=True)  # an earlier attempt's half
    try:
        work.mkdir(parents=True)
        weights: dict[str, str] = {}
        for number, path in enumerate(pickles, 1):
            progress(f"converting {path.name}")
            name = SINGLE_FILE if len(pickles) == 1 else f"model-{number:05}-of-{len(pickles):05}.safetensors"
            weights.update(dict.fromkeys(_convert(path, work / name), name))
        if len(pickles) > 1:
            (work / INDEX_FILE).write_text(json.dumps({"metadata": {}, "weight_map": weights}, indent=1))
        for path in source.iterdir():
            if path.is_file() and path.name[0] != "." and not path.name.startswith("pytorch_model"):
                shutil.copyfile(path, work / path.name)
        sync_folder(work)
        work.replace(out)
    except OSError as error:
        raise BaseModelError(f"cannot write {out}: {error}") from error
    return out


def _convert(pickle: Path, target: Path) -> list[str]:
    """Write one pickle's tensors to `target`; returns their names."""
    try:
        import torch
        from safetensors.torch import save_file
    except ImportError as error:
        raise BaseModelError(f"it takes torch to convert {pickle}: pip install 'loradock[train]' ({error})") from error
    try:
        # weights_only: tensors and plain containers, and none of the code that a pickle may call.
        loaded: Any = torch.load(pickle, map_location="cpu", weights_only=True, mmap=True)
        tensors = {str(name): tensor for name, tensor in loaded.items() if isinstance(tensor, torch.Tensor)}
    except Exception as error:  # a stranger's pickle can make the reader raise anything
        raise BaseModelError(f"{pickle} cannot be read as tensors alone: {str(error)[:300]}") from error
    seen: set[tuple[int, int]] = set()
    kept = {}
    for name, tensor in sorted(tensors.items()):
        place = (tensor.data_ptr(), tensor.nbytes)
        if place not in seen or not tensor.nbytes:
            seen.add(place)
            kept[name] = tensor.contiguous()
    save_file(kept, target, metadata={"format": "pt"})
    return list(kept)
