"""Bytes that nothing refers to any more: found in the store, and removed after a grace.

Needed is what a version has that is not deleted, what was deleted or put in less than the grace ago, and what an
engine holds. It knows no engine; whoever calls says what those hold.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from loradock_adapters.errors import BlobMissing
from loradock_adapters.registry import Registry
from loradock_adapters.store import Store

GRACE_SECONDS = 3600.0  # longer than any registration and any request takes


@dataclass(frozen=True, slots=True)
class Garbage:
    """A blob that nothing needs."""

    digest: str
    size_bytes: int


def find_garbage(
    registry: Registry, store: Store, *, held: Callable[[], Collection[str]], grace_seconds: float
) -> tuple[Garbage, ...]:
    """What could go. Raises RegistryError."""
    needed = _needed(registry, held, grace_seconds)
    found = []
    for digest in store.digests():
        try:
            if digest not in needed and store.idle_seconds(digest) >= grace_seconds:
                found.append(Garbage(digest, store.size_bytes(digest)))
        except BlobMissing:
            continue  # somebody else collects too
    return tuple(found)


def collect_garbage(
    registry: Registry, store: Store, *, held: Callable[[], Collection[str]], grace_seconds: float
) -> tuple[Garbage, ...]:
    """Remove what `find_garbage` finds and return what went. Raises RegistryError, StoreError.

    Whoever is killed in the middle leaves nothing missing that a version refers to: each blob goes while no
    registration can begin to refer to it, and who registers the same bytes after that puts them in again.
    """
    gone = []
    for garbage in find_garbage(registry, store, held=held, grace_seconds=grace_seconds):
        remove = functools.partial(store.remove, garbage.digest)
        try:
            if garbage.digest not in held() and registry.versions.release(garbage.digest, _ago(grace_seconds), remove):
                gone.append(garbage)
        except BlobMissing:
            continue  # somebody else collects too
    return tuple(gone)


def _needed(registry: Registry, held: Callable[[], Collection[str]], grace_seconds: float) -> set[str]:
    return set(held()) | registry.versions.digests(_ago(grace_seconds))


def _ago(seconds: float) -> datetime:
    return datetime.now(UTC) - timedelta(seconds=seconds)
