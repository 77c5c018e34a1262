"""A flat folder of files as a tar stream whose length is known before the first byte, and back again.

Nothing of the machine goes in: no owner, no time, no mode. What comes out is taken as written by an enemy: plain
names that were asked for, regular files, no more bytes than allowed. It knows no adapter and no HTTP.
"""

from __future__ import annotations

import tarfile
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import IO

from loradock_adapters.errors import AdapterMalformed
from loradock_adapters.files import open_regular

_BLOCK = tarfile.BLOCKSIZE
_END = bytes(2 * _BLOCK)
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class FolderTar:
    """Opened files; `size_bytes` is what `chunks` come to. Read it once, then `close`."""

    files: tuple[tuple[tarfile.TarInfo, BufferedReader], ...]
    size_bytes: int
    stack: ExitStack

    @classmethod
    def open(cls, folder: Path) -> FolderTar:
        """Every file of the folder, sorted by name; later changes to the folder do not matter. Raises OSError."""
        with ExitStack() as stack:
            files, total = [], len(_END)
            for path in sorted(folder.iterdir()):
                file = stack.enter_context(open_regular(path))
                info = tarfile.TarInfo(path.name)
                info.size = file.seek(0, 2)
                info.mode = 0o644
                file.seek(0)
                files.append((info, file))
                total += len(_header(info)) + info.size + -info.size % _BLOCK
            return cls(tuple(files), total, stack.pop_all())

    def chunks(self) -> Iterator[bytes]:
        """The stream. Raises OSError when a file has become shorter."""
        for info, file in self.files:
            yield _header(info)
            left = info.size
            while left:
                chunk = file.read(min(left, _CHUNK_BYTES))
                if not chunk:
                    raise OSError(f"{info.name} became shorter while it was read")
                left -= len(chunk)
                yield chunk
            if padding := -info.size % _BLOCK:
                yield bytes(padding)
        yield _END

    def close(self) -> None:
        self.stack.close()


def unpack(stream: IO[bytes], into: Path, *, names: Collection[str], limit_bytes: int) -> tuple[str, ...]:
    """Write the stream's files into a folder, which must be empty, and return their names.

    Raises AdapterMalformed for anything but whole regular files with some of these names, each once, and for more than
    the limit together; OSError if they cannot be written.
    """
    found: list[str] = []
    try:
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                if member.name not in names or member.name in found or not member.isreg() or member.issparse():
                    raise AdapterMalformed(f"{member.name[:80]!r} does not belong there", where="archive")
                limit_bytes -= member.size
                if limit_bytes < 0:
                    raise AdapterMalformed("it has more bytes than the version", where=member.name)
                found.append(member.name)
                _write(archive, member, into / member.name)
    except (tarfile.TarError, EOFError) as error:
        raise AdapterMalformed(f"the archive is cut short or damaged: {error}", where="archive") from error
    return tuple(found)


def _header(info: tarfile.TarInfo) -> bytes:
    return info.tobuf(tarfile.PAX_FORMAT)


def _write(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    source = archive.extractfile(member)
    assert source is not None, "it is a regular file"
    left = member.size
    with path.open("xb") as file:
        while chunk := source.read(_CHUNK_BYTES):
            left -= len(chunk)
            file.write(chunk)
    if left:
        raise AdapterMalformed("it is cut short", where=member.name)
