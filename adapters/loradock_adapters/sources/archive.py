"""From an archive file to the folder with the adapter. The format is what the bytes say, whatever the name."""

from __future__ import annotations

import hashlib
import os
from io import BufferedReader
from pathlib import Path

from loradock_adapters.errors import SourceTooLarge
from loradock_adapters.files import open_regular
from loradock_adapters.sources.limits import SourceLimits
from loradock_adapters.sources.members import adapter_folder, refused
from loradock_adapters.sources.tar_archive import unpack_tar
from loradock_adapters.sources.zip_archive import unpack_zip

SUFFIXES = (".tar.gz", ".tgz", ".tar", ".zip")
"""How an archive's name ends, here and in URIs."""

_GZIP, _ZIP, _EMPTY_ZIP = b"\x1f\x8b", b"PK\x03\x04", b"PK\x05\x06"
_TAR, _TAR_AT = b"ustar", 257


def has_archive_name(name: str) -> bool:
    """Whether a file, by its name, is an archive that could be taken."""
    return name.lower().endswith(SUFFIXES)


def unpack(archive: Path, into: Path, limits: SourceLimits) -> Path:
    """Unpack into `into`, which must not be there yet, and return the folder with the adapter in it.

    If everything lies in one top folder, it is that one. What was written is the caller's to remove, also after an
    error. Raises ArchiveRefused, SourceTooLarge, OSError.
    """
    with open_regular(archive) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limits.max_wrapped_bytes:
            raise SourceTooLarge(
                f"the archive has {size} bytes",
                f"at most {limits.max_bytes} are taken (LORADOCK_MAX_ADAPTER_BYTES)",
                "put only the adapter's own files into it",
            )
        start = _start(file)
        into.mkdir()
        if start.startswith((_ZIP, _EMPTY_ZIP)):
            unpack_zip(file, size, into, limits)
        elif start.startswith(_GZIP):
            unpack_tar(file, True, into, limits)
        elif start[_TAR_AT:].startswith(_TAR):
            unpack_tar(file, False, into, limits)
        else:
            raise refused(f"it begins with {start[:4]!r}", "only tar, tar.gz and zip are taken")
    return adapter_folder(into)


def check_sha256(archive: Path, expected: str) -> None:
    """Raises ArchiveRefused for other bytes."""
    with open_regular(archive) as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise refused(f"its sha256 is {found}", f"its address says {expected}", "find out which of them is right")


def _start(file: BufferedReader) -> bytes:
    start = file.read(_TAR_AT + len(_TAR))
    file.seek(0)
    return start
