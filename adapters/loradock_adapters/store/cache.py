"""What was fetched from afar, kept in a local folder up to so many bytes; what was not wanted for longest goes first.

Nobody loses anything with it: whoever fetches again gets it again. It knows no bucket.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from loradock_adapters.digest import FileEntry
from loradock_adapters.errors import BlobMissing
from loradock_adapters.store.blobs import Blob
from loradock_adapters.store.folder import FolderStore

SPARED_SECONDS = 600.0
"""What was fetched so lately may still be being read, and stays however full it is."""


class Cache:
    """May be shared by processes. Methods raise what the folder's raise."""

    def __init__(self, folder: FolderStore, limit_bytes: int, *, spared_seconds: float = SPARED_SECONDS) -> None:
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._spared_seconds = spared_seconds

    def fetch(self, digest: str) -> Path:
        """The files, after reading them all. Raises BlobMissing, BlobCorrupt."""
        folder = self._folder.fetch(digest)
        with contextlib.suppress(OSError):
            os.utime(folder)  # wanted again
        return folder

    def put(self, folder: Path, files: Iterable[str]) -> Blob:
        blob = self._folder.put(folder, files)
        self._make_room()
        return blob

    def take(self, write: Callable[[Path], list[FileEntry]], digest: str) -> Path:
        """Have these bytes written here. Raises BlobCorrupt if others come."""
        self._folder.take(write, only=digest)
        self._make_room()
        return self._folder.path(digest)

    def sweep(self, older_than_seconds: float) -> int:
        return self._folder.sweep(older_than_seconds=older_than_seconds)

    def _make_room(self) -> None:
        sizes, idle = {}, {}
        for digest in self._folder.digests():
            with contextlib.suppress(BlobMissing, OSError):
                sizes[digest], idle[digest] = self._folder.size_bytes(digest), self._folder.idle_seconds(digest)
        over = sum(sizes[digest] for digest in idle) - self._limit_bytes
        for digest in sorted(idle, key=lambda digest: idle[digest], reverse=True):
            if over <= 0 or idle[digest] < self._spared_seconds:
                return
            with contextlib.suppress(BlobMissing):
                self._folder.remove(digest)
            over -= sizes[digest]
