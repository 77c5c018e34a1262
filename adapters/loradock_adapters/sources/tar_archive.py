"""Tar files, plain or gzipped: read once from front to back, refusing what is no plain file or folder.

The stream is counted while it is inflated, so that a bomb ends early; headers whose content tarfile would read into
memory are capped before it does.
"""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Iterator
from io import BufferedIOBase, BufferedReader
from pathlib import Path
from typing import IO, Self, cast

from loradock_adapters.errors import SourceRefused, SourceTooLarge
from loradock_adapters.sources.limits import SourceLimits
from loradock_adapters.sources.members import CHUNK_BYTES, Unpacking, refused, shown

_LONG_HEADERS = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)
_MAX_LONG_HEADER_BYTES = 16 << 10
_RATIO_FREE_BYTES = 1 << 20  # too little to harm anybody, and short texts shrink a lot
_BROKEN = (tarfile.TarError, OSError, EOFError, ValueError, OverflowError, IndexError, KeyError, zlib.error)
_AS_TAR_DOES = "it must be a whole tar file"


def unpack_tar(file: BufferedReader, gzipped: bool, into: Path, limits: SourceLimits) -> None:
    """Unpack into an empty folder. Raises ArchiveRefused, SourceTooLarge."""
    unpacking = Unpacking(into, limits)
    try:
        with gzip.GzipFile(fileobj=file) if gzipped else file as inflated:
            stream = _Counted(inflated, file, limits)
            with tarfile.open(fileobj=cast("IO[bytes]", stream), mode="r|", tarinfo=_Header, encoding="utf-8") as tar:
                for entry in tar:
                    _take(tar, entry, unpacking)
            while stream.read(CHUNK_BYTES):  # padding, and at its end gzip's own checksum
                pass
    except SourceRefused:
        raise
    except _BROKEN as error:
        raise refused(f"it cannot be read ({str(error)[:200] or type(error).__name__})", _AS_TAR_DOES) from error


class _Header(tarfile.TarInfo):
    """tarfile's reading of one 512-byte header, without its leniency."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == tarfile.BLOCKSIZE and not any(buf):
                raise  # the regular end
            # Here tarfile would stop as if this were the end.
            raise refused("it ends early or a header in it is damaged", _AS_TAR_DOES) from error
        if header.size < 0:
            raise refused(f"{shown(header.name)} says it has {header.size} bytes", "a size is not negative")
        if header.type in _LONG_HEADERS and header.size > _MAX_LONG_HEADER_BYTES:
            raise refused(f"a header in it has {header.size} bytes", f"at most {_MAX_LONG_HEADER_BYTES} are taken")
        return header


def _take(tar: tarfile.TarFile, entry: tarfile.TarInfo, unpacking: Unpacking) -> None:
    if entry.isdir():
        unpacking.folder(entry.name)
        return
    if not entry.isreg() or entry.issparse():
        raise refused(
            f"{shown(entry.name)} is {_kind(entry)}",
            "only plain files and folders are taken",
            "pack the files themselves: tar -czhf adapter.tar.gz -C FOLDER .",
        )
    unpacking.file(entry.name, entry.size, _pieces(tar, entry))


def _pieces(tar: tarfile.TarFile, entry: tarfile.TarInfo) -> Iterator[bytes]:
    content = tar.extractfile(entry)
    assert content is not None  # it is a regular file
    while piece := content.read(CHUNK_BYTES):
        yield piece


def _kind(entry: tarfile.TarInfo) -> str:
    if entry.issym() or entry.islnk():
        return f"a link to {shown(entry.linkname)}"
    return "a device or pipe" if entry.isdev() else "a sparse file or one of an unknown type"


class _Counted:
    """The tar's bytes, counted as they are inflated. Raises SourceTooLarge, ArchiveRefused."""

    def __init__(self, inflated: BufferedIOBase, packed: BufferedReader, limits: SourceLimits) -> None:
        self._inflated = inflated
        self._packed = packed
        self._limits = limits
        self._bytes = 0

    def read(self, size: int) -> bytes:
        data = self._inflated.read(size)
        self._bytes += len(data)
        if self._bytes > self._limits.max_wrapped_bytes:
            raise SourceTooLarge(
                f"the archive unpacks to more than {self._limits.max_bytes} bytes",
                "that is all that is taken, all files together (LORADOCK_MAX_ADAPTER_BYTES)",
                "put only the adapter's own files into it",
            )
        if self._bytes > _RATIO_FREE_BYTES + self._limits.max_ratio * self._packed.tell():
            raise refused(
                f"{self._packed.tell()} bytes of it unpack to {self._bytes}",
                f"at most {self._limits.max_ratio} times as many are taken; weights hardly shrink",
            )
        return data
