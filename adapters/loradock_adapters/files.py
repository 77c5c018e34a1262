"""Opening files that somebody else wrote: regular files only, and never more bytes than allowed.

It knows no format. Symbolic links are followed (model hubs keep their caches that way); whoever serves paths
that others name must check where they lead first.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path


class FileTooLarge(OSError):
    """A file holds more bytes than its reader allows."""


def open_regular(path: Path) -> BufferedReader:
    """Open for reading; OSError if there is nothing, or anything but a regular file."""
    # Without O_NONBLOCK, opening a named pipe would wait for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path.name} is not a regular file")
    return os.fdopen(descriptor, "rb")


def read_capped(path: Path, limit_bytes: int) -> bytes:
    """The whole file; OSError as above, FileTooLarge if it holds more than the limit."""
    with open_regular(path) as file:
        data = file.read(limit_bytes + 1)
    if len(data) > limit_bytes:
        raise FileTooLarge(f"{path.name} is larger than {limit_bytes} bytes")
    return data


@contextmanager
def growing_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` (which may be an empty folder) that takes its place when the block ends well.

    Otherwise it is gone. Raises OSError when it cannot be made, or cannot take its place.
    """
    parent = out.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=parent))
    try:
        yield folder
        sync_folder(folder)
        folder.rename(out)
        sync_folder(parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sync_file(path: Path) -> None:
    """Make the file's bytes survive a power cut."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Make the folder's entries (not the files' bytes) survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
