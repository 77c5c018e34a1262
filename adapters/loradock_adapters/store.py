"""The artifact store: adapters' bytes in a folder, each set of files under its own digest.

Layout: `root/blobs/sha256/<digest>/<files>`, written once, complete or not at all, then read-only; `root/tmp`
is where they grow. It knows no names and no versions (the registry has those), and does not judge.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from loradock_adapters.digest import FileEntry, entries_digest, folder_digest
from loradock_adapters.errors import BlobCorrupt, BlobMissing, StoreError
from loradock_adapters.files import open_regular, sync_folder

_DIGEST = re.compile(r"[0-9a-f]{64}")
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Blob:
    """A stored set of files."""

    digest: str
    size_bytes: int
    folder: Path


class Store:
    """Safe for several threads and processes on one file system."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._blobs = root / "blobs" / "sha256"
        self._growing = root / "tmp"

    def put(self, folder: Path, files: Iterable[str]) -> Blob:
        """Copy these files of the folder in. The digest is that of the bytes as copied.

        Bytes that are there already stay as they are, unless found corrupt: then they are replaced. Raises
        StoreError.
        """
        names = _plain_names(files)
        try:
            self._blobs.mkdir(parents=True, exist_ok=True)
            self._growing.mkdir(parents=True, exist_ok=True)
            growing = Path(tempfile.mkdtemp(dir=self._growing))
            try:
                entries = [_copy(folder / name, growing / name) for name in names]
                sync_folder(growing)
                blob = self._blob(entries)
                self._publish(growing, blob)
            finally:
                _discard(growing)
        except OSError as error:
            raise StoreError(f"the store {self.root} could not take the adapter: {error}") from error
        return blob

    def path(self, digest: str) -> Path:
        """The folder of a stored digest. Raises BlobMissing."""
        folder = self._folder(digest)
        if not folder.is_dir():
            raise BlobMissing(f"the store has no blob {digest}; register the adapter again")
        return folder

    def verify(self, digest: str) -> Path:
        """The folder, after reading all its bytes. Raises BlobMissing, BlobCorrupt."""
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
        """Everything stored, sorted."""
        if not self._blobs.is_dir():
            return ()
        return tuple(sorted(entry.name for entry in self._blobs.iterdir() if _DIGEST.fullmatch(entry.name)))

    def idle_seconds(self, digest: str) -> float:
        """How long ago these bytes were last put in, whether or not they were there already. Raises BlobMissing."""
        return max(0.0, time.time() - self.path(digest).stat().st_mtime)

    def size_bytes(self, digest: str) -> int:
        """All files of a blob together. Raises BlobMissing."""
        return sum(entry.stat().st_size for entry in self.path(digest).iterdir())

    def remove(self, digest: str) -> None:
        """Remove a blob, all at once as others see it. Raises BlobMissing, StoreError."""
        try:
            _discard(self._move_aside(self.path(digest), self._growing).parent)
        except OSError as error:
            raise StoreError(f"the store {self.root} could not remove blob {digest}: {error}") from error

    def quarantine(self, digest: str) -> Path:
        """Move a corrupt blob to `root/corrupt`, for somebody to look at. Raises BlobMissing, StoreError."""
        try:
            return self._move_aside(self.path(digest), self.root / "corrupt")
        except OSError as error:
            raise StoreError(f"the store {self.root} could not move blob {digest}: {error}") from error

    def leftovers(self, *, older_than_seconds: float) -> tuple[Path, ...]:
        """What crashed writers left behind; fresh ones may still be growing."""
        limit = time.time() - older_than_seconds
        found = sorted(self._growing.iterdir()) if self._growing.is_dir() else ()
        return tuple(folder for folder in found if folder.stat().st_mtime <= limit)

    def sweep(self, *, older_than_seconds: float = 86_400) -> int:
        """Remove what crashed writers left behind, and return how many."""
        stale = self.leftovers(older_than_seconds=older_than_seconds)
        for folder in stale:
            _discard(folder)
        return len(stale)

    def _blob(self, entries: list[FileEntry]) -> Blob:
        digest = entries_digest(entries)
        return Blob(digest, sum(entry.size_bytes for entry in entries), self._folder(digest))

    def _publish(self, growing: Path, blob: Blob) -> None:
        if blob.folder.exists():
            try:
                self.verify(blob.digest)
                os.utime(blob.folder)  # somebody is about to refer to it: `idle_seconds` starts anew
                blob.folder.chmod(0o555)  # a writer that was killed may not have come to it
                return
            except BlobCorrupt:
                _discard(self._move_aside(blob.folder, self._growing).parent)
        try:
            growing.rename(blob.folder)
        except OSError:
            if not blob.folder.is_dir():
                raise
            return  # another writer was faster with the same bytes
        blob.folder.chmod(0o555)
        sync_folder(self._blobs)

    def _move_aside(self, folder: Path, where: Path) -> Path:
        where.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(dir=where)) / folder.name
        folder.chmod(0o700)  # or it could not be moved
        return folder.rename(aside)

    def _folder(self, digest: str) -> Path:
        if not _DIGEST.fullmatch(digest):
            raise BlobMissing(f"{digest[:80]!r} is no digest; one is 64 hexadecimal digits")
        return self._blobs / digest


def _plain_names(files: Iterable[str]) -> list[str]:
    names = sorted(set(files))
    for name in names:
        if Path(name).name != name or name in {"", ".", ".."} or "\0" in name:
            raise StoreError(f"{name[:80]!r} is not a plain file name")
    if not names:
        raise StoreError("an adapter without files cannot be stored")
    return names


def _copy(source: Path, target: Path) -> FileEntry:
    sha256, size = hashlib.sha256(), 0
    with open_regular(source) as reader, target.open("xb") as writer:
        while chunk := reader.read(_CHUNK_BYTES):
            sha256.update(chunk)
            size += len(chunk)
            writer.write(chunk)
        writer.flush()
        os.fsync(writer.fileno())
    target.chmod(0o444)
    return FileEntry(target.name, size, sha256.hexdigest())


def _state(folder: Path) -> tuple[int, int] | None:
    """Other after whatever this module does to a blob's folder; None when it is gone."""
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_ino, found.st_ctime_ns


def _discard(folder: Path) -> None:
    for inside in (folder, *folder.glob("*")):
        if inside.is_dir():
            inside.chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)
