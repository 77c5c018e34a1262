"""Blobs in a bucket: there with their index, compared with their digest, kept near by, and S3's errors in our words."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import obstore
import pytest
from obstore.store import S3Store

from loradock_adapters.errors import BlobCorrupt, BlobMissing, StoreError
from loradock_adapters.store import FolderStore, Store, bucket, open_store
from loradock_adapters.store.cache import Cache
from tests.seaweed import Seaweed

FILES = ("config.json", "weights")


@pytest.fixture(name="at")
def _at(bucket: str) -> str:
    return bucket


@pytest.fixture
def objects(at: str, seaweed: Seaweed) -> S3Store:
    """The same place, as somebody else sees it."""
    name, _, prefix = at.removeprefix("s3://").partition("/")
    return S3Store(name, prefix=prefix, client_options={"allow_http": True})


@pytest.fixture
def near(at: str, tmp_path: Path) -> Store:
    return open_store(at, tmp_path / "near")


@pytest.fixture
def far(at: str, tmp_path: Path) -> Store:
    """The same bucket from another machine."""
    return open_store(at, tmp_path / "far")


def paths(objects: S3Store) -> set[str]:
    return {found["path"] for page in obstore.list(objects) for found in page}


def test_another_machine_fetches_what_one_has_put_and_then_needs_the_bucket_no_more(
    near: Store, far: Store, objects: S3Store, source: Path
) -> None:
    digest = near.put(source, FILES).digest
    assert paths(objects) == {f"blobs/sha256/{digest}.json", f"files/{digest}/config.json", f"files/{digest}/weights"}
    folder = far.fetch(digest)
    assert (folder / "weights").read_bytes() == (source / "weights").read_bytes()
    far.remove(digest)
    assert paths(objects) == set()
    assert far.fetch(digest) == folder
    with pytest.raises(BlobMissing):
        far.verify(digest)


def test_a_copy_near_by_that_rots_is_fetched_anew(near: Store, far: Store, source: Path) -> None:
    digest = near.put(source, FILES).digest
    weights = far.fetch(digest) / "weights"
    weights.chmod(0o644)
    weights.write_bytes(b"rotten")
    assert (far.fetch(digest) / "weights").read_bytes() == (source / "weights").read_bytes()


def change(objects: S3Store, digest: str) -> None:
    obstore.put(objects, f"files/{digest}/weights", bytes(2_999_999) + b"x")


def shorten(objects: S3Store, digest: str) -> None:
    obstore.put(objects, f"files/{digest}/weights", b"short")


def lose(objects: S3Store, digest: str) -> None:
    obstore.delete(objects, f"files/{digest}/weights")


def swap_index(objects: S3Store, digest: str) -> None:
    index = bytes(obstore.get(objects, f"blobs/sha256/{digest}.json").bytes())
    obstore.put(objects, f"blobs/sha256/{digest}.json", index.replace(b"weights", b"../ghts"))


def break_index(objects: S3Store, digest: str) -> None:
    obstore.put(objects, f"blobs/sha256/{digest}.json", b'{"files": [{"path": 1}]}')


def swell_index(objects: S3Store, digest: str) -> None:
    obstore.put(objects, f"blobs/sha256/{digest}.json", bytes(2 << 20))


@pytest.mark.parametrize("harm", [change, shorten, lose, swap_index, break_index, swell_index])
def test_harm_in_the_bucket_is_found_and_putting_the_bytes_again_repairs_it(
    near: Store, far: Store, objects: S3Store, source: Path, harm: Callable[[S3Store, str], None]
) -> None:
    digest = near.put(source, FILES).digest
    harm(objects, digest)
    for ask in (near.verify, far.verify, far.fetch):
        with pytest.raises((BlobCorrupt, BlobMissing)):
            ask(digest)
    assert near.put(source, FILES).digest == digest
    near.verify(digest)
    assert (far.fetch(digest) / "weights").read_bytes() == (source / "weights").read_bytes()


def test_a_writer_that_dies_before_the_index_leaves_nothing_to_be_seen(
    near: Store, far: Store, objects: S3Store, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = obstore.put

    def dies_at_the_index(client: S3Store, path: str, data: bytes) -> None:
        if path.startswith("blobs/"):
            raise KeyboardInterrupt
        put(client, path, data)

    monkeypatch.setattr(obstore, "put", dies_at_the_index)
    with pytest.raises(KeyboardInterrupt):
        near.put(source, FILES)
    monkeypatch.undo()
    assert far.digests() == ()
    (digest,) = {path.split("/")[1] for path in paths(objects)}
    assert len(far.leftovers(older_than_seconds=-5)) == 2


@pytest.fixture
def half_written(objects: S3Store, far: Store) -> str:
    digest = "ab" * 32
    obstore.put(objects, f"files/{digest}/weights", b"half")
    return digest


def test_files_without_an_index_are_swept_once_they_are_old(
    far: Store, objects: S3Store, half_written: str, source: Path
) -> None:
    kept = far.put(source, FILES).digest
    assert far.leftovers(older_than_seconds=3600) == ()
    assert far.sweep() == 0
    assert far.leftovers(older_than_seconds=-5) == (f"{far.where}/files/{half_written}/weights",)
    assert far.sweep(older_than_seconds=-5) == 1
    assert paths(objects) == {f"blobs/sha256/{kept}.json", f"files/{kept}/config.json", f"files/{kept}/weights"}


def test_putting_again_starts_the_grace_anew(near: Store, source: Path) -> None:
    digest = near.put(source, FILES).digest
    time.sleep(2.1)  # S3 counts in seconds
    assert near.idle_seconds(digest) >= 1
    began = time.time()
    near.put(source, FILES)
    idle = near.idle_seconds(digest)
    assert idle < time.time() - began + 1.1  # without the second put it were 2.1 more than has passed since


def test_what_the_bucket_says_no_to_is_said_with_its_place(
    at: str, tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    stranger = open_store(at, tmp_path / "cache")
    for ask in (lambda: stranger.put(source, FILES), stranger.digests, stranger.sweep):
        with pytest.raises(StoreError, match=f"the store {at} could not"):
            ask()


def test_a_bucket_that_nobody_answers_for_is_given_up(at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(bucket._RETRY, "max_retries", 0)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(StoreError, match="could not"):
        open_store(at, tmp_path / "cache").digests()


def test_the_cache_keeps_what_was_wanted_last(tmp_path: Path, source: Path) -> None:
    folder = FolderStore(tmp_path / "cache")
    cache = Cache(folder, limit_bytes=7_000_000, spared_seconds=60)
    digests = []
    for number in range(4):
        (source / "config.json").write_text(str(number))
        digests.append(cache.put(source, FILES).digest)
        idle = 3600 - number if number < 2 else 0
        os.utime(folder.path(digests[-1]), (time.time() - idle,) * 2)
        if number == 1:
            cache.fetch(digests[0])
    assert set(folder.digests()) == {digests[0], digests[2], digests[3]}, "over the limit, but fetched a moment ago"


@pytest.mark.parametrize(
    "where", ["gs://bucket", "s3://", "s3:///prefix", "s3://b", "s3://user@bucket", "s3://bucket/a//b", "s3://bucket?x"]
)
def test_other_addresses_are_refused(where: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="s3://bucket/prefix"):
        open_store(where, tmp_path)


def test_a_path_is_a_folder(tmp_path: Path) -> None:
    assert isinstance(open_store(str(tmp_path / "store"), tmp_path / "cache"), FolderStore)
