"""Zip files: what the directory says is judged before anything is unpacked, and counted again while it is."""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import IO, cast

from loradock_adapters.errors import SourceRefused
from loradock_adapters.sources.limits import WRAPPING_BYTES, SourceLimits
from loradock_adapters.sources.members import CHUNK_BYTES, Unpacking, refused, shown

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 0x1
_BROKEN = (
    *(zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError),
    *(ValueError, NotImplementedError, RuntimeError, OverflowError, IndexError, KeyError),
)
_AS_ZIP_DOES = "it must be a whole zip file"


def unpack_zip(file: BufferedReader, size: int, into: Path, limits: SourceLimits) -> None:
    """Unpack a file of `size` bytes into an empty folder. Raises ArchiveRefused, SourceTooLarge."""
    unpacking = Unpacking(into, limits)
    try:
        with zipfile.ZipFile(cast("IO[bytes]", _SmallReads(file))) as archive:
            entries = archive.infolist()
            for entry in entries:
                _judge(entry, limits)
            _judge_overlap(entries, size)
            for entry in entries:
                if entry.is_dir():
                    unpacking.folder(entry.filename)
                else:
                    unpacking.file(entry.filename, entry.file_size, _pieces(archive, entry))
    except SourceRefused:
        raise
    except _BROKEN as error:
        raise refused(f"it cannot be read ({str(error)[:200] or type(error).__name__})", _AS_ZIP_DOES) from error


def _judge(entry: zipfile.ZipInfo, limits: SourceLimits) -> None:
    name = entry.orig_filename
    if "\0" in name:  # zipfile cuts there
        raise refused(f"the name {shown(name)} has a zero byte", "names are printable UTF-8")
    if entry.flag_bits & _ENCRYPTED:
        raise refused(f"{shown(name)} is encrypted", "only entries without a password are taken")
    if entry.compress_type not in _METHODS:
        raise refused(
            f"{shown(name)} is packed by method {entry.compress_type}", "only stored and deflated entries are taken"
        )
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise refused(f"{shown(name)} is a link or a device", "only plain files and folders are taken")
    if entry.file_size > WRAPPING_BYTES and entry.file_size > limits.max_ratio * entry.compress_size:
        raise refused(
            f"{entry.compress_size} bytes of {shown(name)} unpack to {entry.file_size}",
            f"at most {limits.max_ratio} times as many are taken; weights hardly shrink",
        )


def _judge_overlap(entries: list[zipfile.ZipInfo], size: int) -> None:
    """Entries that share bytes are how a small zip becomes a huge one."""
    end = 0
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        if entry.header_offset < end:
            raise refused(f"{shown(entry.orig_filename)} shares bytes with another entry", "every entry has its own")
        end = entry.header_offset + entry.compress_size
    if end > size:
        raise refused("it ends early", _AS_ZIP_DOES)


def _pieces(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Iterator[bytes]:
    with archive.open(entry) as content:
        while piece := content.read(CHUNK_BYTES):
            yield piece


class _SmallReads:
    """A file from which nobody reads much at once: zipfile would take a directory of a gigabyte into memory."""

    def __init__(self, file: BufferedReader) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        if size > WRAPPING_BYTES:
            raise refused(f"its directory has {size} bytes", f"at most {WRAPPING_BYTES} are taken")
        return self._file.read(size if size >= 0 else WRAPPING_BYTES)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        """Whoever opened the file closes it."""
