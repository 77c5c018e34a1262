"""Which bytes may go from the store, and which never."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from loradock_adapters.errors import BlobMissing
from loradock_adapters.garbage import collect_garbage, find_garbage
from loradock_adapters.names import AdapterRef
from loradock_adapters.registry import Registry
from loradock_adapters.store import FolderStore, Store
from tests.adapters.registry.making import ME, facts


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    registry = Registry.open(f"sqlite:///{tmp_path}/registry.db")
    yield registry
    registry.close()


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store")


def put(store: Store, folder: Path, text: str) -> str:
    """Store some bytes and return their digest."""
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(text)
    return store.put(folder, ["adapter_config.json"]).digest


def stage(registry: Registry, name: str, digest: str) -> AdapterRef:
    return registry.versions.stage(name, replace(facts(1), digest=digest), by=ME).ref


def collect(registry: Registry, store: Store, *held: str, grace_seconds: float = 0) -> list[str]:
    gone = collect_garbage(registry, store, held=lambda: held, grace_seconds=grace_seconds)
    return [garbage.digest for garbage in gone]


def test_only_what_no_version_refers_to_goes(registry: Registry, store: FolderStore, tmp_path: Path) -> None:
    used, orphan = put(store, tmp_path / "a", "used"), put(store, tmp_path / "a", "orphan")
    ref = stage(registry, "bot", used)
    registry.versions.verify(ref, by=ME)
    registry.versions.make_ready(ref, by=ME)
    assert collect(registry, store) == [orphan]
    assert store.digests() == (used,)
    store.verify(used)
    registry.aliases.remove("bot", "live", by=ME)
    registry.versions.retire(ref, by=ME)
    assert collect(registry, store) == []
    registry.versions.delete(ref, by=ME)
    assert collect(registry, store) == [used]
    assert list((tmp_path / "store/tmp").iterdir()) == []


def test_bytes_that_another_name_has_too_stay(registry: Registry, store: FolderStore, tmp_path: Path) -> None:
    digest = put(store, tmp_path / "a", "shared")
    stage(registry, "one", digest)
    stage(registry, "another", digest)
    registry.delete_adapter("one", by=ME)
    assert collect(registry, store) == []
    registry.delete_adapter("another", by=ME)
    assert collect(registry, store) == [digest]


def test_what_an_engine_holds_stays(registry: Registry, store: FolderStore, tmp_path: Path) -> None:
    digest = put(store, tmp_path / "a", "in memory")
    assert collect(registry, store, digest) == []
    assert collect(registry, store) == [digest]


def test_the_grace_counts_from_the_last_upload_and_from_the_deletion(
    registry: Registry, store: FolderStore, tmp_path: Path
) -> None:
    digest = put(store, tmp_path / "a", "bytes")
    assert collect(registry, store, grace_seconds=600) == []
    long_ago = time.time() - 700
    os.utime(store.path(digest), (long_ago, long_ago))
    ref = stage(registry, "bot", digest)
    registry.versions.delete(ref, by=ME)
    assert collect(registry, store, grace_seconds=600) == [], "deleted a moment ago"
    fresh = put(store, tmp_path / "a", "other bytes")
    os.utime(store.path(fresh), (long_ago, long_ago))
    put(store, tmp_path / "a", "other bytes")
    assert collect(registry, store, grace_seconds=600) == [], "put in again a moment ago"
    os.utime(store.path(fresh), (long_ago, long_ago))
    assert collect(registry, store, grace_seconds=600) == [fresh]


def test_looking_removes_nothing(registry: Registry, store: FolderStore, tmp_path: Path) -> None:
    digest = put(store, tmp_path / "a", "bytes")
    (found,) = find_garbage(registry, store, held=tuple, grace_seconds=0)
    assert (found.digest, found.size_bytes) == (digest, 5)
    assert store.digests() == (digest,)


def test_bytes_that_somebody_refers_to_at_the_last_moment_stay(
    registry: Registry, store: FolderStore, tmp_path: Path
) -> None:
    digest = put(store, tmp_path / "a", "bytes")
    asked = 0

    def held() -> tuple[str, ...]:
        nonlocal asked
        asked += 1
        if asked == 2:  # it was found to be garbage before
            stage(registry, "bot", digest)
        return ()

    assert collect_garbage(registry, store, held=held, grace_seconds=0) == ()
    assert asked == 2
    store.verify(digest)


def test_nobody_begins_to_refer_to_bytes_while_they_are_removed(
    registry: Registry, store: FolderStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = put(store, tmp_path / "a", "bytes")
    other = Registry.open(f"sqlite:///{tmp_path}/registry.db")
    staging = threading.Thread(target=stage, args=(other, "bot", digest))
    remove = store.remove

    def slowly(digest: str) -> None:
        staging.start()
        staging.join(0.3)
        assert staging.is_alive(), "it was meant to wait"
        remove(digest)

    monkeypatch.setattr(store, "remove", slowly)
    assert collect(registry, store) == [digest]
    staging.join(30)
    assert registry.catalogue().adapters["bot"].versions[1].digest == digest
    with pytest.raises(BlobMissing):  # which its registration finds when it verifies, and puts them in again
        store.verify(digest)
    other.close()
