"""The base model as adapters see it: its linear modules with their shapes, and the digest that names it.

Read from config.json and the safetensors headers, without loading a weight. It knows no engine.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from loradock_adapters.base_layers import INDEX_FILE, SINGLE_FILE, read_layers
from loradock_adapters.base_layers import MAX_JSON_BYTES as MAX_JSON_BYTES
from loradock_adapters.digest import entries_digest, file_entry
from loradock_adapters.errors import BaseModelError
from loradock_adapters.files import read_capped
from loradock_adapters.linear_shape import LinearShape as LinearShape
from loradock_adapters.module_table import BaseModules
from loradock_adapters.servable import Obstacle, obstacle
from loradock_adapters.strict_json import parse_object

RECORD_FILE = "loradock-base.json"
"""Written by whoever fetched the model: {"name", "digest", …}. Trusted for both."""

DIGEST_CACHE_FILE = ".loradock-digest.json"

_CACHED = re.compile(r"models--([\w.-]+?)--([\w.-]+)")


@dataclass(frozen=True, slots=True)
class BaseModel:
    """`modules` maps PEFT's names of the layers that adapters may change ("model.layers.0.mlp.up_proj") to shapes.

    `others` are linear layers that have no part in what is served: a vision tower, an encoder's pooler. `hub_id` is
    "org/name", or empty where nothing proves one. `obstacle`: why no adapter of it can be served here, if so.
    """

    folder: Path
    name: str
    digest: str
    dtype: str
    architecture: str
    vocab_size: int
    modules: Mapping[str, LinearShape]
    hub_id: str = ""
    others: Mapping[str, LinearShape] = field(default_factory=dict)
    obstacle: Obstacle | None = None

    @property
    def layers(self) -> Mapping[str, LinearShape]:
        """All linear layers, those that adapters may change and the others."""
        return {**self.modules, **self.others} if self.others else self.modules

    @classmethod
    def read(cls, folder: Path, *, name: str | None = None, modules: BaseModules | None = None) -> BaseModel:
        """Read a local model folder; `name` overrides the recorded name or the folder's.

        Who knows the `modules` need not have the weights; then there is a digest only if one is recorded, else it
        is empty. Raises BaseModelError if it is not a transformers folder with safetensors.
        """
        config = _json(folder / "config.json")
        record = _json(folder / RECORD_FILE) if (folder / RECORD_FILE).exists() else {}
        hub_id = str(record.get("hub_id") or _hub_id(folder))
        layers = read_layers(folder, config) if modules is None else modules
        found = layers.adaptable
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
            modules=found,
            hub_id=hub_id,
            others=MappingProxyType({name: shape for name, shape in layers.linear.items() if name not in found}),
            obstacle=obstacle(folder),
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
