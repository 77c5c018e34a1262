"""The digest that names an adapter version or a base model: SHA-256 over the canonical list of its files.

The list is "path NUL size NUL sha256 LF" per file, sorted by the path's UTF-8 bytes. What the files mean it
does not know.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from loradock_adapters.files import open_regular


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file: its path inside the folder with forward slashes, its size in bytes, its SHA-256 in hex."""

    path: str
    size_bytes: int
    sha256: str


def file_digest(path: Path) -> str:
    """SHA-256 of a regular file, in hex. Raises OSError."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_entry(folder: Path, path: str) -> FileEntry:
    """Measure one file of a folder. Raises OSError."""
    with open_regular(folder / path) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return FileEntry(path, file.tell(), digest)


def entries_digest(entries: Iterable[FileEntry]) -> str:
    """The digest of measured files, in hex."""
    total = hashlib.sha256()
    for entry in sorted(entries, key=lambda entry: entry.path.encode()):
        total.update(f"{entry.path}\0{entry.size_bytes}\0{entry.sha256}\n".encode())
    return total.hexdigest()


def folder_digest(folder: Path, files: Iterable[str] | None = None) -> str:
    """The digest over these files of the folder, or over all of them, subfolders too. Raises OSError."""
    paths = list_files(folder) if files is None else files
    return entries_digest(file_entry(folder, path) for path in paths)


def list_files(folder: Path) -> tuple[str, ...]:
    """Every file below the folder, as paths inside it, sorted."""
    return tuple(sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir()))
