"""Archives for tests, made by the standard library where it can make them, and by hand where it would refuse."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

Entries = Iterable[tuple[str, bytes] | tarfile.TarInfo]


def entries_of(folder: Path, *, below: str = "") -> list[tuple[str, bytes]]:
    """Every file of a folder under its path inside, with `below` in front."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(below + path.relative_to(folder).as_posix(), path.read_bytes()) for path in files]


def tar_bytes(entries: Entries, *, format: int = tarfile.PAX_FORMAT) -> bytes:
    """A plain tar. A TarInfo goes in as it is, followed by nothing."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=format) as tar:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                tar.addfile(entry)
            else:
                header = tarfile.TarInfo(entry[0])
                header.size = len(entry[1])
                tar.addfile(header, io.BytesIO(entry[1]))
    return sink.getvalue()


def tgz_bytes(entries: Entries) -> bytes:
    return gzip.compress(tar_bytes(entries), compresslevel=6, mtime=0)


def zip_bytes(entries: Iterable[tuple[str | zipfile.ZipInfo, bytes]], *, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", method) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return sink.getvalue()


def special(name: str, kind: bytes, link: str = "", **more: object) -> tarfile.TarInfo:
    """A header alone: a link, a device, a folder, or one that lies about its size."""
    header = tarfile.TarInfo(name)
    header.type = kind
    header.linkname = link
    for field, value in more.items():
        setattr(header, field, value)
    return header


def mode_entry(name: str, mode: int) -> zipfile.ZipInfo:
    """A zip entry with a Unix mode, for instance that of a link."""
    entry = zipfile.ZipInfo(name)
    entry.create_system = 3
    entry.external_attr = mode << 16
    return entry


def contents(folder: Path) -> Mapping[str, bytes]:
    """Every file below a folder by its path inside."""
    return dict(entries_of(folder))
