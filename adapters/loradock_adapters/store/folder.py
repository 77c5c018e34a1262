"""Blobs in a folder of a local or shared file system.

Layout: `root/blobs/sha256/<digest>/<files>`, written once, complete or not at all, then read-only; `root/tmp` is where
they grow. A rename is what makes a blob be there, or not.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from loradock_adapters.digest import FileEntry, entries_digest, folder_digest
from loradock_adapters.errors import BlobCorrupt, StoreError
from loradock_adapters.files import open_regular, sync_folder
from loradock_adapters.store.blobs import LEFTOVER_SECONDS, Blob, is_digest, missing, plain_names, require_digest

_CHUNK_BYTES = 1 << 20


class FolderStore:
    """A Store (see blobs.py) on one file system."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._blobs = root / "blobs" / "sha256"
        self._growing = root / "tmp"

    @property
    def where(self) -> str:
        return str(self.root)

    def put(self, folder: Path, files: Iterable[str]) -> Blob:
        names = plain_names(files)
        return self.take(lambda growing: [_copy(folder / name, growing / name) for name in names])

    def take(self, write: Callable[[Path], list[FileEntry]], *, only: str | None = None) -> Blob:
        """Take in what `write` writes into the folder it is given, by `new_file`, and says it has written.

        With `only`, another digest is BlobCorrupt, and nothing is kept.
        """
        try:
            self._blobs.mkdir(parents=True, exist_ok=True)
            self._growing.mkdir(parents=True, exist_ok=True)
            growing = Path(tempfile.mkdtemp(dir=self._growing))
            try:
                entries = write(growing)
                blob = Blob(entries_digest(entries), sum(entry.size_bytes for entry in entries))
                if only not in (None, blob.digest):
                    raise BlobCorrupt(f"blob {only} holds other bytes ({blob.digest}); register the adapter again")
                sync_folder(growing)
                self._publish(growing, blob.digest)
            finally:
                _discard(growing)
        except OSError as error:
            raise StoreError(f"the store {self.root} could not take the adapter: {error}") from error
        return blob

    def path(self, digest: str) -> Path:
        """The folder of a stored digest. Raises BlobMissing."""
        folder = self._folder(digest)
        if not folder.is_dir():
            raise missing(digest)
        return folder

    def verify(self, digest: str) -> None:
        self.fetch(digest)

    def fetch(self, digest: str) -> Path:
        while True:
            folder = self.path(digest)
            before = _state(folder)
            try:
                found, reason = folder_digest(folder), None
            except OSError as error:
                found, reason = "", error
            if found == digest:
                return folder
            if _state(folder) == before:  # else it was removed or put in meanwhile: look again
                break
        if reason is not None:
            raise BlobCorrupt(f"blob {digest} cannot be read: {reason}; register the adapter again") from reason
        raise BlobCorrupt(f"blob {digest} holds other bytes ({found}); register the adapter again")

    def digests(self) -> tuple[str, ...]:
        if not self._blobs.is_dir():
            return ()
        return tuple(sorted(entry.name for entry in self._blobs.iterdir() if is_digest(entry.name)))

    def idle_seconds(self, digest: str) -> float:
        return max(0.0, time.time() - self.path(digest).stat().st_mtime)

    def size_bytes(self, digest: str) -> int:
        return sum(entry.stat().st_size for entry in self.path(digest).iterdir())

    def remove(self, digest: str) -> None:
        try:
            _discard(self._move_aside(self.path(digest), self._growing).parent)
        except OSError as error:
            raise StoreError(f"the store {self.root} could not remove blob {digest}: {error}") from error

    def quarantine(self, digest: str) -> str:
        try:
            return str(self._move_aside(self.path(digest), self.root / "corrupt"))
        except OSError as error:
            raise StoreError(f"the store {self.root} could not move blob {digest}: {error}") from error

    def leftovers(self, *, older_than_seconds: float) -> tuple[str, ...]:
        return tuple(str(folder) for folder in self._leftovers(older_than_seconds))

    def sweep(self, *, older_than_seconds: float = LEFTOVER_SECONDS) -> int:
        stale = self._leftovers(older_than_seconds)
        for folder in stale:
            _discard(folder)
        return len(stale)

    def _leftovers(self, older_than_seconds: float) -> list[Path]:
        limit = time.time() - older_than_seconds
        found = sorted(self._growing.iterdir()) if self._growing.is_dir() else ()
        return [folder for folder in found if _changed_before(folder, limit)]

    def _publish(self, growing: Path, digest: str) -> None:
        folder = self._folder(digest)
        if folder.exists():
            try:
                self.fetch(digest)
                os.utime(folder)  # somebody is about to refer to it: `idle_seconds` starts anew
                folder.chmod(0o555)  # a writer that was killed may not have come to it
                return
            except BlobCorrupt:
                _discard(self._move_aside(folder, self._growing).parent)
        try:
            growing.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
            return  # another writer was faster with the same bytes
        folder.chmod(0o555)
        sync_folder(self._blobs)

    def _move_aside(self, folder: Path, where: Path) -> Path:
        where.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(dir=where)) / folder.name
        folder.chmod(0o700)  # or it could not be moved
        return folder.rename(aside)

    def _folder(self, digest: str) -> Path:
        return self._blobs / require_digest(digest)


def new_file(path: Path, chunks: Iterable[bytes]) -> FileEntry:
    """Write a file that nobody changes any more, flushed to disk, and measure it. Raises OSError."""
    sha256, size = hashlib.sha256(), 0
    with path.open("xb") as writer:
        for chunk in chunks:
            sha256.update(chunk)
            size += len(chunk)
            writer.write(chunk)
        writer.flush()
        os.fsync(writer.fileno())
    path.chmod(0o444)
    return FileEntry(path.name, size, sha256.hexdigest())


def _copy(source: Path, target: Path) -> FileEntry:
    with open_regular(source) as reader:
        return new_file(target, iter(lambda: reader.read(_CHUNK_BYTES), b""))


def _state(folder: Path) -> tuple[int, int] | None:
    """Other after whatever this module does to a blob's folder; None when it is gone."""
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_ino, found.st_ctime_ns


def _changed_before(folder: Path, limit: float) -> bool:
    try:
        return folder.stat().st_mtime <= limit
    except FileNotFoundError:
        return False  # its writer is done with it


def _discard(folder: Path) -> None:
    for inside in (folder, *folder.glob("*")):
        if inside.is_dir():
            inside.chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)
