"""What every archive format has in common: which entries may be, and writing them below one new folder.

An entry is a plain file or a folder with a relative path. Nothing here follows, makes or replaces anything else, so
nothing can lead out of the folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from loradock_adapters.errors import ArchiveRefused, SourceTooLarge
from loradock_adapters.sources.limits import SourceLimits

CHUNK_BYTES = 1 << 18
_PACK_AGAIN = "pack the adapter's folder again: tar -czf adapter.tar.gz -C FOLDER ."
_FILES_ONLY = "put only the adapter's own files into it"
_DRIVE = re.compile(r"[A-Za-z]:")
_JUNK_FOLDERS = frozenset({"__MACOSX"})
_JUNK_FILES = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})
_APPLE_DOUBLE = "._"


def refused(value: str, limit: str, fix: str = _PACK_AGAIN) -> ArchiveRefused:
    """The archive as such cannot be taken."""
    return ArchiveRefused(f"the archive cannot be taken: {value}", limit, fix)


def shown(name: str) -> str:
    """A stranger's name, fit to be printed."""
    return ascii(name[:80])


class Unpacking:
    """Writes an archive's entries into `into`, an empty folder, one after the other; counts as it goes."""

    def __init__(self, into: Path, limits: SourceLimits) -> None:
        self._into = into
        self._limits = limits
        self._entries = 0
        self._bytes = 0

    def folder(self, name: str) -> None:
        """An entry that is a folder; it may come again. Raises ArchiveRefused, SourceTooLarge."""
        path = self._admit(name)
        if path is not None:
            self._make(self._into / path, name)

    def file(self, name: str, size: int, pieces: Iterable[bytes]) -> None:
        """An entry that is a file of `size` bytes. Raises ArchiveRefused, SourceTooLarge, and what `pieces` raises."""
        path = self._admit(name)
        if size < 0:
            raise refused(f"{shown(name)} says it has {size} bytes", "a size is not negative")
        if self._bytes + size > self._limits.max_bytes:
            raise self._too_many_bytes(self._bytes + size)
        if path is None:
            for piece in pieces:
                self._count(len(piece))
            return
        target = self._into / path
        self._make(target.parent, name)
        try:
            file = target.open("xb")
        except OSError as error:
            raise self._taken(name) from error
        written = 0
        with file:
            for piece in pieces:
                written += len(piece)
                self._count(len(piece))
                file.write(piece)
        if written != size:
            raise refused(f"{shown(name)} says it has {size} bytes and has {written}", "both must be the same")

    def _admit(self, name: str) -> Path | None:
        """The path inside the folder; None for what desktops leave in archives."""
        self._entries += 1
        if self._entries > self._limits.max_entries:
            raise SourceTooLarge(
                f"the archive has more than {self._limits.max_entries} entries",
                f"at most {self._limits.max_entries} are taken",
                _FILES_ONLY,
            )
        parts = _parts(name, self._limits)
        if _is_junk(parts):
            return None
        return Path(*parts)

    def _make(self, folder: Path, name: str) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._taken(name) from error

    def _taken(self, name: str) -> ArchiveRefused:
        return refused(f"{shown(name)} is in it twice, or is a file and a folder", "every name is there once")

    def _count(self, size: int) -> None:
        self._bytes += size
        if self._bytes > self._limits.max_bytes:
            raise self._too_many_bytes(self._bytes)

    def _too_many_bytes(self, size: int) -> SourceTooLarge:
        return SourceTooLarge(
            f"the archive unpacks to at least {size} bytes",
            f"at most {self._limits.max_bytes} are taken, all files together (LORADOCK_MAX_ADAPTER_BYTES)",
            _FILES_ONLY,
        )


def adapter_folder(unpacked: Path) -> Path:
    """Where the adapter lies: the one folder that everything was packed in, if there is one, or all of it.

    Raises ArchiveRefused if nothing was unpacked.
    """
    inside = list(unpacked.iterdir())
    if not inside:
        raise refused("it holds no files", "an adapter needs adapter_config.json and adapter_model.safetensors")
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else unpacked


def _parts(name: str, limits: SourceLimits) -> tuple[str, ...]:
    if not name.isprintable() or "\\" in name:  # what is no UTF-8 is not printable either
        raise refused(f"the name {shown(name)} has characters that no name needs", "names are printable UTF-8")
    if name.startswith("/") or _DRIVE.match(name):
        raise refused(f"the name {shown(name)} is absolute", "names are relative")
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if ".." in parts:
        raise refused(f"the name {shown(name)} leads out of the archive", "names stay inside")
    if len(name.encode()) > limits.max_path_bytes or any(len(part.encode()) > 255 for part in parts):
        raise refused(
            f"the name {shown(name)}… has {len(name.encode())} bytes",
            f"at most {limits.max_path_bytes} are taken, 255 between two slashes",
        )
    if len(parts) > limits.max_depth:
        raise refused(f"{shown(name)} lies {len(parts)} folders deep", f"at most {limits.max_depth} are taken")
    return parts


def _is_junk(parts: tuple[str, ...]) -> bool:
    return any(part in _JUNK_FOLDERS for part in parts) or (
        bool(parts) and (parts[-1] in _JUNK_FILES or parts[-1].startswith(_APPLE_DOUBLE))
    )
