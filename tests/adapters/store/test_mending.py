"""Garbage collection and the doctor, over any store: what nothing needs goes, what is harmed is found and repaired."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import obstore
import pytest
from obstore.store import S3Store

from loradock_adapters.doctor import examine
from loradock_adapters.errors import BlobMissing
from loradock_adapters.names import AdapterRef
from loradock_adapters.registry import Registry, VersionState
from loradock_adapters.store import FolderStore, Store
from tests.adapters.registry.making import ME
from tests.adapters.test_garbage import collect, put, stage


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    registry = Registry.open(f"sqlite:///{tmp_path}/registry.db")
    yield registry
    registry.close()


def ready(registry: Registry, store: Store, folder: Path, text: str) -> tuple[AdapterRef, str]:
    digest = put(store, folder, text)
    ref = stage(registry, "bot", digest)
    registry.versions.verify(ref, by=ME)
    registry.versions.make_ready(ref, by=ME)
    return ref, digest


def change(store: Store, bucket: str | None, digest: str, name: str) -> None:
    """Other bytes in the place of one file of a blob."""
    if isinstance(store, FolderStore):
        path = store.path(digest) / name
        path.chmod(0o644)
        path.write_bytes(b"other")
    else:
        assert bucket is not None
        where, _, prefix = bucket.removeprefix("s3://").partition("/")
        obstore.put(
            S3Store(where, prefix=prefix, client_options={"allow_http": True}), f"files/{digest}/{name}", b"oth"
        )


def test_what_nothing_refers_to_goes(registry: Registry, store: Store, tmp_path: Path) -> None:
    first, one = ready(registry, store, tmp_path / "a", "version 1")
    _, two = ready(registry, store, tmp_path / "a", "version 2")
    orphan = put(store, tmp_path / "a", "nobody's")
    assert collect(registry, store, grace_seconds=600) == [], "put in a moment ago"
    assert collect(registry, store, orphan) == [], "an engine holds it"
    assert collect(registry, store) == [orphan]
    registry.versions.delete(first, by=ME)
    assert collect(registry, store) == [one]
    assert store.digests() == (two,)
    store.verify(two)


def test_the_doctor_finds_what_is_harmed_and_repairs_it(
    registry: Registry, store: Store, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    bucket = None if isinstance(store, FolderStore) else str(request.getfixturevalue("bucket"))
    digests = [ready(registry, store, tmp_path / "a", f"version {number}")[1] for number in (1, 2, 3)]
    orphan = put(store, tmp_path / "a", "nobody's")
    assert examine(registry, store, tmp_path / "tmp", age_seconds=600) == ()
    store.remove(digests[1])
    change(store, bucket, digests[2], "adapter_config.json")

    found = examine(registry, store, tmp_path / "tmp", age_seconds=0)
    assert {(finding.code, finding.where) for finding in found} == {
        ("missing_blob", "bot@2"),
        ("corrupt_blob", "bot@3"),
        ("orphan_blob", orphan),
    }
    examine(registry, store, tmp_path / "tmp", age_seconds=0, repair=True)
    assert examine(registry, store, tmp_path / "tmp", age_seconds=0) == ()

    versions = registry.catalogue().adapters["bot"].versions
    assert [versions[n].state for n in (1, 2, 3)] == [VersionState.READY, VersionState.FAILED, VersionState.FAILED]
    assert registry.catalogue().resolve("bot").ref == AdapterRef("bot", 1)
    with pytest.raises(BlobMissing):
        store.verify(digests[2])
    assert ready(registry, store, tmp_path / "a", "version 3") == (AdapterRef("bot", 3), digests[2])
    store.verify(digests[2])
