"""Which linear layers a base model has by PEFT's names, from what is at hand in its folder.

A decoder's safetensors headers say it: there PEFT's names are the checkpoint's. Where they are not (several models in
one, encoders, experts, quantised or transposed weights) transformers is asked, in a process of its own, once for each
folder. Without transformers the headers are read by rules. Loads no weight and imports neither torch nor transformers.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from loradock_adapters import servable
from loradock_adapters.errors import AdapterUnreadable, BaseModelError
from loradock_adapters.files import read_capped
from loradock_adapters.linear_shape import LinearShape
from loradock_adapters.module_table import BaseModules, can_build, modules_elsewhere
from loradock_adapters.safetensors_header import TensorFile, TensorInfo
from loradock_adapters.strict_json import parse_object

INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"
CACHE_FILE = ".loradock-modules.json"
"""What transformers said, beside the model. Hidden: no part of its digest."""

MAX_JSON_BYTES = 64 << 20  # indexes of large models are megabytes

_FLOATS = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"})
# Two-dimensional weights that are no linear layer, or that adapters cannot change here.
_NOT_LINEAR = frozenset({"wte", "wpe", "lm_head", "shared", "relative_attention_bias"})
# Quantised weights whose shape is not the layer's.
_PACKED = frozenset({"qweight", "weight_packed", "qzeros"})
# Where a multimodal checkpoint has its language model; PEFT says model.language_model.
_LANGUAGE = re.compile(r"^(?:model\.)?(?:language_model\.model|language_model|text_model)\.|^model\.(?=layers\.)")
_TOWER = re.compile(r"vision|visual|audio|image|speech|multi_modal|mm_|projector|connector|merger|embed_")


def read_layers(folder: Path, config: Mapping[str, Any]) -> BaseModules:
    """The layers of the model in `folder`; `config` is its config.json. Raises BaseModelError."""
    if _is_plain(config):
        found = dict(_in_headers(folder))
        return BaseModules(MappingProxyType(found), frozenset(found))
    stamp = _stamp(folder)
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        known = parse_object(read_capped(folder / CACHE_FILE, MAX_JSON_BYTES))
        if known["stamp"] == stamp:
            return BaseModules.from_plain(known)
    if can_build():
        with contextlib.suppress(BaseModelError):  # a model that transformers has no code for
            built = modules_elsewhere(folder)
            _remember(folder, {**built.to_plain(), "stamp": stamp})
            return built
    return _by_rules(folder, config)


def _is_plain(config: Mapping[str, Any]) -> bool:
    """Whether the checkpoint's names and shapes are PEFT's."""
    architectures = config.get("architectures")
    name = str(architectures[0]) if isinstance(architectures, list) and architectures else "ForCausalLM"
    several = any(isinstance(config.get(part), Mapping) for part in ("text_config", "vision_config", "audio_config"))
    return name.endswith("ForCausalLM") and not (several or servable.is_quantised(config) or servable.experts(config))


def _stamp(folder: Path) -> list[str]:
    try:
        version = importlib.metadata.version("transformers")
    except importlib.metadata.PackageNotFoundError:
        version = "none"
    return [hashlib.sha256((folder / "config.json").read_bytes()).hexdigest(), version]


def _remember(folder: Path, plain: Mapping[str, Any]) -> None:
    part = folder / f"{CACHE_FILE}.{os.getpid()}"
    with contextlib.suppress(OSError):  # a read-only folder is asked about again next time
        part.write_text(json.dumps(plain), encoding="utf-8")
        part.replace(folder / CACHE_FILE)


def _by_rules(folder: Path, config: Mapping[str, Any]) -> BaseModules:
    found = dict(_in_headers(folder))
    if not isinstance(config.get("text_config"), Mapping):
        names = {name.removeprefix("bert.").removeprefix("roberta."): shape for name, shape in found.items()}
        return BaseModules(MappingProxyType(names), frozenset(names))
    renamed = {}
    for name, shape in found.items():
        ours = not _TOWER.search(name)
        renamed[_LANGUAGE.sub("model.language_model.", name) if ours else name] = shape
    language = frozenset(name for name in renamed if name.startswith("model.language_model."))
    return BaseModules(MappingProxyType(renamed), language)


def _in_headers(folder: Path) -> Iterator[tuple[str, LinearShape]]:
    for path in weight_files(folder):
        try:
            tensors = TensorFile.open(path, max_header_bytes=100 << 20).tensors.values()
        except AdapterUnreadable as error:
            raise BaseModelError(f"{folder}: {error}") from error
        for info in tensors:
            module, _, kind = info.name.rpartition(".")
            if kind in _PACKED or (kind == "weight" and info.dtype == "U8"):
                raise BaseModelError(
                    f"{folder} is quantised ({info.name} is {info.dtype}), and what its layers are only transformers "
                    "can say: pip install 'loradock[train]', or give the unquantised model"
                )
            if kind == "weight" and _is_linear(module, info):
                yield module, LinearShape(in_features=info.shape[1], out_features=info.shape[0])


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that hold the weights. Raises BaseModelError."""
    if not (folder / INDEX_FILE).exists():
        return [folder / SINGLE_FILE]
    try:
        shards = parse_object(read_capped(folder / INDEX_FILE, MAX_JSON_BYTES)).get("weight_map")
    except (OSError, ValueError) as error:
        raise BaseModelError(f"{folder / INDEX_FILE} cannot be read: {error}") from error
    if not isinstance(shards, dict) or not all(isinstance(s, str) and Path(s).name == s for s in shards.values()):
        raise BaseModelError(f"{folder / INDEX_FILE} has no weight_map of plain file names")
    return [folder / name for name in sorted(set(shards.values()))]


def _is_linear(module: str, info: TensorInfo) -> bool:
    last = module.rpartition(".")[2]
    matrix = len(info.shape) == 2 and (info.dtype in _FLOATS or info.dtype == "I8")
    return matrix and last not in _NOT_LINEAR and "norm" not in last and "embed" not in last
