"""The base model as adapters see it: its linear modules with their shapes, and the digest that names it.

Read from config.json and the safetensors headers, without loading a weight. It knows no engine.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from loradock_adapters.digest import entries_digest, file_entry
from loradock_adapters.errors import AdapterUnreadable, BaseModelError
from loradock_adapters.files import read_capped
from loradock_adapters.linear_shape import LinearShape as LinearShape
from loradock_adapters.safetensors_header import TensorFile, TensorInfo
from loradock_adapters.strict_json import parse_object

RECORD_FILE = "loradock-base.json"
"""Written by whoever fetched the model: {"name", "digest", …}. Trusted for both."""

DIGEST_CACHE_FILE = ".loradock-digest.json"

INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"
MAX_JSON_BYTES = 64 << 20  # indexes of large models are megabytes

_CACHED = re.compile(r"models--([\w.-]+?)--([\w.-]+)")
_FLOATS = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"})
# Two-dimensional weights that are no linear layer, or that adapters cannot change here.
_NOT_LINEAR = frozenset(
    {"embed_tokens", "embed_in", "embed_out", "embed_positions", "wte", "wpe", "word_embeddings", "lm_head"}
)


@dataclass(frozen=True, slots=True)
class BaseModel:
    """`modules` maps names as in the checkpoint ("model.layers.0.mlp.up_proj") to shapes.

    `hub_id` is "org/name", or empty where nothing proves one.
    """

    folder: Path
    name: str
    digest: str
    dtype: str
    architecture: str
    vocab_size: int
    modules: Mapping[str, LinearShape]
    hub_id: str = ""

    @classmethod
    def read(
        cls, folder: Path, *, name: str | None = None, modules: Mapping[str, LinearShape] | None = None
    ) -> BaseModel:
        """Read a local model folder; `name` overrides the recorded name or the folder's.

        Who knows the `modules` need not have the weights; then there is a digest only if one is recorded, else it
        is empty. Raises BaseModelError if it is not a transformers folder with unquantised safetensors.
        """
        config = _json(folder / "config.json")
        record = _json(folder / RECORD_FILE) if (folder / RECORD_FILE).exists() else {}
        hub_id = str(record.get("hub_id") or _hub_id(folder))
        found = dict(_linear_modules(folder) if modules is None else modules)
        if not found:
            raise BaseModelError(f"{folder} holds no linear layers in its safetensors files; give a language model")
        text = config.get("text_config") if isinstance(config.get("text_config"), dict) else config
        architectures = config.get("architectures")
        return cls(
            folder=folder,
            name=name or str(record.get("name") or hub_id or folder.resolve().name),
            digest=str(record["digest"]) if "digest" in record else base_digest(folder) if modules is None else "",
            dtype=str(config.get("dtype") or config.get("torch_dtype") or "float32"),
            architecture=str(architectures[0]) if isinstance(architectures, list) and architectures else "",
            vocab_size=_whole(text, "vocab_size", folder),
            modules=MappingProxyType(found),
            hub_id=hub_id,
        )


def _hub_id(folder: Path) -> str:
    # The hub's cache: models--org--name/snapshots/<revision>
    found = _CACHED.fullmatch(folder.parent.parent.name) if folder.parent.name == "snapshots" else None
    return f"{found[1]}/{found[2]}" if found else ""


def has_weights(folder: Path) -> bool:
    """Whether the folder holds weights, or an index of them, and not only a configuration."""
    return any((folder / name).exists() for name in (INDEX_FILE, SINGLE_FILE))


def base_files(folder: Path) -> tuple[str, ...]:
    """The files that make a base model: all in the folder but hidden ones and our own record, sorted."""
    return tuple(sorted(p.name for p in folder.iterdir() if p.is_file() and p.name != RECORD_FILE and p.name[0] != "."))


def base_digest(folder: Path) -> str:
    """The digest over `base_files`, remembered in a file while nothing changes. Raises BaseModelError."""
    try:
        files = base_files(folder)
        stamp = [[name, (s := (folder / name).stat()).st_size, s.st_mtime_ns] for name in files]
        cache = folder / DIGEST_CACHE_FILE
        with suppress(OSError, ValueError):
            known = parse_object(read_capped(cache, MAX_JSON_BYTES))
            if known.get("stamp") == stamp and isinstance(known.get("digest"), str):
                return str(known["digest"])
        digest = entries_digest(file_entry(folder, name) for name in files)
    except OSError as error:
        raise BaseModelError(f"{folder} cannot be read: {error}") from error
    with suppress(OSError):  # a read-only folder is hashed again next time
        cache.write_text(json.dumps({"digest": digest, "stamp": stamp}), encoding="utf-8")
    return digest


def _linear_modules(folder: Path) -> Iterator[tuple[str, LinearShape]]:
    for path in _weight_files(folder):
        try:
            tensors = TensorFile.open(path, max_header_bytes=100 << 20).tensors.values()
        except AdapterUnreadable as error:
            raise BaseModelError(f"{folder}: {error}") from error
        for info in tensors:
            module, _, kind = info.name.rpartition(".")
            if kind in {"qweight", "weight_packed"} or (kind == "weight" and info.dtype == "U8"):
                raise BaseModelError(
                    f"{folder} is quantised ({info.name} is {info.dtype}), so adapters cannot be checked: "
                    "give the unquantised model"
                )
            if kind == "weight" and _is_linear(module, info):
                yield module, LinearShape(in_features=info.shape[1], out_features=info.shape[0])


def _weight_files(folder: Path) -> list[Path]:
    if not (folder / INDEX_FILE).exists():
        return [folder / SINGLE_FILE]
    shards = _json(folder / INDEX_FILE).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(s, str) and Path(s).name == s for s in shards.values()):
        raise BaseModelError(f"{folder / INDEX_FILE} has no weight_map of plain file names")
    return [folder / name for name in sorted(set(shards.values()))]


def _is_linear(module: str, info: TensorInfo) -> bool:
    last = module.rpartition(".")[2]
    return len(info.shape) == 2 and info.dtype in _FLOATS and last not in _NOT_LINEAR and "norm" not in last


def _json(path: Path) -> dict[str, Any]:
    try:
        return parse_object(read_capped(path, MAX_JSON_BYTES))
    except (OSError, ValueError) as error:
        raise BaseModelError(f"{path} cannot be read: {error}; give a folder as transformers saves it") from error


def _whole(config: Any, field: str, folder: Path) -> int:
    value = config.get(field)
    if type(value) is not int or value < 1:
        raise BaseModelError(f"{folder / 'config.json'}: {field} is {value!r}; it must be a positive whole number")
    return value
