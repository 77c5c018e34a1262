"""What every artifact store can do, and what it calls things. Knows no place where bytes lie."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from loradock_adapters.errors import BlobMissing, StoreError

_DIGEST = re.compile(r"[0-9a-f]{64}")

LEFTOVER_SECONDS = 86_400.0
"""What a writer has not finished after a day it never will."""


@dataclass(frozen=True, slots=True)
class Blob:
    """A stored set of files, by the digest of them all; `size_bytes` is all of them together."""

    digest: str
    size_bytes: int


class Store(Protocol):
    """Safe for several threads, processes and machines at once. Every method blocks and may raise StoreError."""

    @property
    def where(self) -> str:
        """The place, for people."""

    def put(self, folder: Path, files: Iterable[str]) -> Blob:
        """Copy these files of the folder in. The digest is that of the bytes as copied.

        Bytes that are there already stay as they are, unless found corrupt: then they are replaced.
        """

    def fetch(self, digest: str) -> Path:
        """A local, read-only folder with the blob's files, after reading them all. Raises BlobMissing, BlobCorrupt."""

    def verify(self, digest: str) -> None:
        """Read all bytes where they are kept. Raises BlobMissing, BlobCorrupt."""

    def digests(self) -> tuple[str, ...]:
        """Everything stored, sorted."""

    def idle_seconds(self, digest: str) -> float:
        """How long ago these bytes were last put in, whether or not they were there already. Raises BlobMissing."""

    def size_bytes(self, digest: str) -> int:
        """All files of a blob together. Raises BlobMissing."""

    def remove(self, digest: str) -> None:
        """Remove a blob, all at once as others see it. Raises BlobMissing."""

    def quarantine(self, digest: str) -> str:
        """Move a corrupt blob out of the way, for somebody to look at, and return where to. Raises BlobMissing."""

    def leftovers(self, *, older_than_seconds: float) -> tuple[str, ...]:
        """What crashed writers left behind; fresh ones may still be growing."""

    def sweep(self, *, older_than_seconds: float = LEFTOVER_SECONDS) -> int:
        """Remove what crashed writers left behind, and return how many."""


def is_digest(text: str) -> bool:
    return _DIGEST.fullmatch(text) is not None


def require_digest(text: str) -> str:
    """Raises BlobMissing for what could not be stored under any circumstances."""
    if not is_digest(text):
        raise BlobMissing(f"{text[:80]!r} is no digest; one is 64 hexadecimal digits")
    return text


def plain_names(files: Iterable[str]) -> list[str]:
    """The names, sorted, each once. Raises StoreError for anything that is more than a name, and for none at all."""
    names = sorted(set(files))
    for name in names:
        if Path(name).name != name or name in {"", ".", ".."} or "\0" in name:
            raise StoreError(f"{name[:80]!r} is not a plain file name")
    if not names:
        raise StoreError("an adapter without files cannot be stored")
    return names


def missing(digest: str) -> BlobMissing:
    return BlobMissing(f"the store has no blob {digest}; register the adapter again")
