"""A LoRA adapter as PEFT saves it: which files count, its configuration, its tensors.

It reads strictly and judges nothing: whether the adapter can be served is `check`'s business.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from loradock_adapters.errors import AdapterMalformed, AdapterUnreadable
from loradock_adapters.files import FileTooLarge, read_capped
from loradock_adapters.safetensors_header import TensorFile
from loradock_adapters.strict_json import parse_object

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
MANIFEST_FILE = "manifest.json"
README_FILE = "README.md"
SIGNATURE_FILE = "signature.json"

REQUIRED_FILES = (CONFIG_FILE, WEIGHTS_FILE)
ADAPTER_FILES = frozenset({*REQUIRED_FILES, MANIFEST_FILE, README_FILE})
"""The files that belong to an adapter. Trainers leave others there: tokenizers, plots, optimizer states."""

PICKLED_WEIGHTS = ("adapter_model.bin", "adapter_model.pt")
"""Where PEFT and others once kept weights. Nothing here reads them."""

TEMPLATE_FILE = "chat_template.jinja"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
ADDED_TOKENS_FILE = "added_tokens.json"
JUDGED_FILES = frozenset({TEMPLATE_FILE, TOKENIZER_CONFIG_FILE, ADDED_TOKENS_FILE, SIGNATURE_FILE})
"""Read for the judgement where they lie beside an adapter, and never stored."""

MAX_JSON_BYTES = 1 << 20

TENSOR_PREFIX = "base_model.model."
TENSOR_SUFFIXES = MappingProxyType({".lora_A.weight": "A", ".lora_B.weight": "B"})


def tensor_name(module: str, side: str) -> str:
    """What PEFT calls a module's A, shape (rank, in), or B, shape (out, rank)."""
    return f"{TENSOR_PREFIX}{module}.lora_{side}.weight"


@dataclass(frozen=True, slots=True)
class PeftFolder:
    """A readable adapter folder. `files` belong to the adapter, `ignored` are the other names in it."""

    folder: Path
    files: tuple[str, ...]
    ignored: tuple[str, ...]
    size_bytes: int
    config: Mapping[str, Any]
    manifest: Mapping[str, Any]
    tensors: TensorFile

    @classmethod
    def read(cls, folder: Path) -> PeftFolder:
        """Read all but the tensors' numbers. Raises AdapterUnreadable at the first file that is not sound."""
        files, ignored = list_adapter_files(folder)
        for name in REQUIRED_FILES:
            if name not in files:
                raise AdapterUnreadable(
                    "the file is missing; give a folder that PEFT's save_pretrained wrote", where=name
                )
        return cls(
            folder=folder,
            files=files,
            ignored=ignored,
            size_bytes=size_of(folder, files),
            config=read_json(folder / CONFIG_FILE),
            manifest=read_json(folder / MANIFEST_FILE) if MANIFEST_FILE in files else MappingProxyType({}),
            tensors=TensorFile.open(folder / WEIGHTS_FILE),
        )


def list_adapter_files(folder: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names in the folder: those that belong to an adapter, and the others. Raises AdapterUnreadable."""
    try:
        names = sorted(entry.name for entry in folder.iterdir())
    except OSError as error:
        raise AdapterUnreadable(error.strerror or str(error), where=str(folder)) from error
    files = tuple(name for name in names if name in ADAPTER_FILES)
    return files, tuple(name for name in names if name not in ADAPTER_FILES)


def size_of(folder: Path, files: tuple[str, ...]) -> int:
    """The files' bytes, all together. Raises AdapterUnreadable."""
    try:
        return sum((folder / name).stat().st_size for name in files)
    except OSError as error:
        raise AdapterUnreadable(error.strerror or str(error), where=str(folder)) from error


def read_json(path: Path) -> Mapping[str, Any]:
    """A JSON object of at most 1 MiB, read strictly. Raises AdapterUnreadable or AdapterMalformed."""
    try:
        return MappingProxyType(parse_object(read_capped(path, MAX_JSON_BYTES)))
    except (FileTooLarge, ValueError) as error:
        raise AdapterMalformed(str(error), where=path.name) from error
    except OSError as error:
        raise AdapterUnreadable(error.strerror or str(error), where=path.name) from error
