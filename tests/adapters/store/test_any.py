"""What every store does: keeps bytes under their digest, once, and finds out when they rot."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from loradock_adapters.digest import folder_digest
from loradock_adapters.errors import BlobMissing, StoreError
from loradock_adapters.store import Blob, Store

FILES = ("config.json", "weights")


def test_what_is_put_is_fetched_under_the_digest_of_its_bytes(store: Store, source: Path) -> None:
    blob = store.put(source, FILES)
    assert blob == Blob(folder_digest(source, FILES), 3_000_002)
    store.verify(blob.digest)
    folder = store.fetch(blob.digest)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "weights"]
    assert (folder / "weights").read_bytes() == (source / "weights").read_bytes()
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o444}
    assert store.digests() == (blob.digest,)
    assert store.size_bytes(blob.digest) == blob.size_bytes
    assert store.idle_seconds(blob.digest) < 60
    assert store.leftovers(older_than_seconds=-60) == ()


def test_the_same_bytes_again_are_the_same_blob(store: Store, source: Path) -> None:
    first = store.put(source, FILES)
    assert store.put(source, reversed(FILES)) == first
    assert store.digests() == (first.digest,)


def test_many_threads_putting_the_same_bytes_all_get_the_one_blob(store: Store, source: Path) -> None:
    start, blobs = threading.Barrier(4), list[Blob]()

    def put() -> None:
        start.wait()
        blobs.append(store.put(source, FILES))

    threads = [threading.Thread(target=put) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(blobs) == 4
    assert len(set(blobs)) == 1
    store.verify(blobs[0].digest)
    assert store.leftovers(older_than_seconds=-60) == ()


def test_what_was_removed_is_missing_and_can_be_put_again(store: Store, source: Path) -> None:
    digest = store.put(source, FILES).digest
    store.remove(digest)
    assert store.digests() == ()
    assert store.leftovers(older_than_seconds=-60) == ()
    for ask in (store.verify, store.size_bytes, store.idle_seconds, store.remove, store.quarantine):
        with pytest.raises(BlobMissing):
            ask(digest)
    assert store.put(source, FILES).digest == digest
    store.verify(digest)


def test_what_was_put_aside_is_missing_and_still_to_be_looked_at(store: Store, source: Path) -> None:
    digest = store.put(source, FILES).digest
    assert store.quarantine(digest).startswith(f"{store.where}/corrupt/")
    assert store.digests() == ()
    assert store.leftovers(older_than_seconds=-60) == ()
    with pytest.raises(BlobMissing):
        store.verify(digest)


@pytest.mark.parametrize("digest", ["", "..", "0" * 63, "G" * 64, "../" + "0" * 61, "0" * 64])
def test_what_is_no_stored_digest_is_missing(store: Store, digest: str) -> None:
    for ask in (store.fetch, store.verify, store.size_bytes):
        with pytest.raises(BlobMissing) as caught:
            ask(digest)
        assert isinstance(caught.value, LookupError)


@pytest.mark.parametrize("names", [[], [""], [".."], ["../source/config.json"], ["/etc/hostname"], ["a\0b"]])
def test_only_plain_names_are_taken(store: Store, source: Path, names: list[str]) -> None:
    with pytest.raises(StoreError):
        store.put(source, names)
    assert store.digests() == ()


def test_a_file_that_cannot_be_read_leaves_nothing_behind(store: Store, source: Path) -> None:
    with pytest.raises(StoreError, match="could not take"):
        store.put(source, [*FILES, "absent"])
    assert store.digests() == ()
    assert store.leftovers(older_than_seconds=-60) == ()
