"""Blobs in a bucket that speaks S3, for gateways and engines on several machines.

Layout: `files/<digest>/<name>`, and last of all the index `blobs/sha256/<digest>.json`, which lists them with size and
SHA-256. Only what has an index is there for readers, so a writer that dies half way leaves nothing to be seen; removing
takes the index away first. What is fetched goes into a local cache, and is compared with its digest on every fetch.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from loradock_adapters.digest import FileEntry, entries_digest, file_entry
from loradock_adapters.errors import BlobCorrupt, BlobMissing, StoreError
from loradock_adapters.store.blobs import LEFTOVER_SECONDS, Blob, is_digest, missing, plain_names, require_digest
from loradock_adapters.store.cache import Cache
from loradock_adapters.store.folder import FolderStore, new_file
from loradock_adapters.strict_json import parse_object

if TYPE_CHECKING:  # only there for types
    from obstore.store import ClientConfig, RetryConfig

_INDEX = "blobs/sha256"
_FILES = "files"
_CORRUPT = "corrupt"
_CHUNK_BYTES = 1 << 20
_MAX_INDEX_BYTES = 1 << 20
# A request for a gigabyte takes its time; a bucket that does not answer is given up after a minute.
_CLIENT: ClientConfig = {"timeout": timedelta(minutes=10), "connect_timeout": timedelta(seconds=5), "allow_http": True}
_RETRY: RetryConfig = {"max_retries": 5, "retry_timeout": timedelta(minutes=1)}


class BucketStore:
    """A Store (see blobs.py) below a prefix of a bucket."""

    def __init__(self, client: S3Store, where: str, cache: Cache) -> None:
        self._client = client
        self._where = where
        self._cache = cache

    @classmethod
    def open(cls, bucket: str, prefix: str, cache: FolderStore, *, cache_bytes: int) -> BucketStore:
        """Key, region and endpoint are AWS's own variables. Asks nobody yet."""
        where = f"s3://{bucket}/{prefix}".rstrip("/")
        client = S3Store(bucket, prefix=prefix or None, client_options=_CLIENT, retry_config=_RETRY)
        return cls(client, where, Cache(cache, cache_bytes))

    @property
    def where(self) -> str:
        return self._where

    def put(self, folder: Path, files: Iterable[str]) -> Blob:
        # Through the cache: what is measured there is what is sent, whatever happens to the folder meanwhile.
        blob = self._cache.put(folder, plain_names(files))
        with self._errors("take the adapter"):
            try:
                self.verify(blob.digest)
                entries = self._index(blob.digest)
            except (BlobMissing, BlobCorrupt):
                entries = []
                local = self._cache.fetch(blob.digest)
                for path in sorted(local.iterdir()):
                    obstore.put(self._client, _file(blob.digest, path.name), path)
                    entries.append(file_entry(local, path.name))
            # Written anew where it is there: somebody is about to refer to it, `idle_seconds` starts again.
            index = json.dumps({"files": [asdict(entry) for entry in entries]})
            obstore.put(self._client, _index(blob.digest), index.encode())
        return blob

    def fetch(self, digest: str) -> Path:
        with contextlib.suppress(BlobMissing, BlobCorrupt):
            return self._cache.fetch(require_digest(digest))
        entries = self._index(digest)

        def write(growing: Path) -> list[FileEntry]:
            return [new_file(growing / entry.path, self._chunks(digest, entry)) for entry in entries]

        with self._errors(f"give blob {digest}"):
            return self._cache.take(write, digest)

    def verify(self, digest: str) -> None:
        for entry in self._index(digest):
            sha256 = hashlib.sha256()
            with self._errors(f"give blob {digest}"):
                for chunk in self._chunks(digest, entry):
                    sha256.update(chunk)
            if sha256.hexdigest() != entry.sha256:
                raise BlobCorrupt(f"{entry.path} of blob {digest} holds other bytes; register the adapter again")

    def digests(self) -> tuple[str, ...]:
        with self._errors("be listed"):
            names = [Path(found["path"]).name for found in self._list(_INDEX)]
        return tuple(sorted(name[:-5] for name in names if name.endswith(".json") and is_digest(name[:-5])))

    def idle_seconds(self, digest: str) -> float:
        with self._errors(f"give blob {digest}"):
            try:
                changed = obstore.head(self._client, _index(digest))["last_modified"]
            except FileNotFoundError as error:
                raise missing(digest) from error
        return max(0.0, (datetime.now(UTC) - changed).total_seconds())

    def size_bytes(self, digest: str) -> int:
        return sum(entry.size_bytes for entry in self._index(digest))

    def remove(self, digest: str) -> None:
        self.idle_seconds(digest)  # so that what is not there is missing
        with self._errors(f"remove blob {digest}"):
            obstore.delete(self._client, _index(digest))
            self._delete(found["path"] for found in self._list(f"{_FILES}/{digest}"))

    def quarantine(self, digest: str) -> str:
        self.idle_seconds(digest)
        aside = f"{_CORRUPT}/{digest}-{time.time_ns()}"
        with self._errors(f"move blob {digest}"):
            obstore.copy(self._client, _index(digest), f"{aside}.json")
            obstore.delete(self._client, _index(digest))
            for path in [found["path"] for found in self._list(f"{_FILES}/{digest}")]:
                obstore.rename(self._client, path, f"{aside}/{Path(path).name}")
        return f"{self._where}/{aside}"

    def leftovers(self, *, older_than_seconds: float) -> tuple[str, ...]:
        return tuple(f"{self._where}/{path}" for path in self._leftovers(older_than_seconds))

    def sweep(self, *, older_than_seconds: float = LEFTOVER_SECONDS) -> int:
        """The local cache's, too."""
        stale = self._leftovers(older_than_seconds)
        with self._errors("be swept"):
            self._delete(stale)
        return len(stale) + self._cache.sweep(older_than_seconds)

    def _leftovers(self, older_than_seconds: float) -> list[str]:
        """Files without an index, of which none is younger than that."""
        limit = datetime.now(UTC) - timedelta(seconds=older_than_seconds)
        with self._errors("be listed"):
            files: dict[str, list[Any]] = {}
            for found in self._list(_FILES):
                files.setdefault(found["path"].split("/")[1], []).append(found)
            # The indexes after the files: a writer that has finished meanwhile is seen to have.
            whole = set(self.digests())
        return sorted(
            found["path"]
            for digest, those in files.items()
            if digest not in whole and all(found["last_modified"] <= limit for found in those)
            for found in those
        )

    def _index(self, digest: str) -> list[FileEntry]:
        """The files of a blob as its index lists them. Raises BlobMissing, BlobCorrupt."""
        with self._errors(f"give blob {digest}"):
            try:
                answer = obstore.get(self._client, _index(digest))
                too_large = answer.meta["size"] > _MAX_INDEX_BYTES
                raw = b"" if too_large else bytes(answer.bytes())
            except FileNotFoundError as error:
                raise missing(digest) from error
        try:
            entries = [FileEntry(**entry) for entry in parse_object(raw)["files"]]
            names = plain_names(entry.path for entry in entries)
            sound = len(names) == len(entries) and entries_digest(entries) == digest
        except (AttributeError, KeyError, TypeError, ValueError, StoreError):
            sound = False
        if not sound:
            raise BlobCorrupt(f"the index of blob {digest} is not its own; register the adapter again")
        return entries

    def _chunks(self, digest: str, entry: FileEntry) -> Iterator[bytes]:
        """A file's bytes, as many as there should be and no more. Raises BlobMissing, BlobCorrupt."""
        try:
            answer = obstore.get(self._client, _file(digest, entry.path))
        except FileNotFoundError as error:
            raise BlobMissing(f"blob {digest} lacks {entry.path}; register the adapter again") from error
        if answer.meta["size"] != entry.size_bytes:
            raise BlobCorrupt(
                f"{entry.path} of blob {digest} has {answer.meta['size']} bytes, not {entry.size_bytes}; "
                "register the adapter again"
            )
        for chunk in answer.stream(_CHUNK_BYTES):
            yield bytes(chunk)

    def _list(self, prefix: str) -> Iterator[Any]:
        for page in obstore.list(self._client, prefix):
            yield from page

    def _delete(self, paths: Iterable[str]) -> None:
        if found := list(paths):
            obstore.delete(self._client, found)

    @contextlib.contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except (BaseError, OSError) as error:
            reason = str(error).partition("\n")[0][:300]
            raise StoreError(f"the store {self._where} could not {what}: {reason}") from error


def _index(digest: str) -> str:
    return f"{_INDEX}/{require_digest(digest)}.json"


def _file(digest: str, name: str) -> str:
    return f"{_FILES}/{require_digest(digest)}/{name}"
