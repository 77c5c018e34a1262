"""The content-addressed store: once, atomically, and found out when it rots."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from loradock_adapters.digest import folder_digest
from loradock_adapters.errors import BlobCorrupt, BlobMissing, StoreError
from loradock_adapters.store import Blob, FolderStore

FILES = ("config.json", "weights")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "config.json").write_bytes(b"{}")
    (folder / "weights").write_bytes(bytes(3_000_000))
    (folder / "notes.txt").write_bytes(b"not part of it")
    return folder


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store")


def test_what_is_put_is_found_under_the_digest_of_its_bytes(store: FolderStore, source: Path) -> None:
    blob = store.put(source, FILES)
    assert blob == Blob(folder_digest(source, FILES), 3_000_002, store.root / "blobs" / "sha256" / blob.digest)
    assert store.path(blob.digest) == store.verify(blob.digest) == blob.folder
    assert sorted(path.name for path in blob.folder.iterdir()) == ["config.json", "weights"]
    assert (blob.folder / "weights").read_bytes() == (source / "weights").read_bytes()
    assert store.digests() == (blob.digest,)


def test_stored_files_are_read_only_and_nothing_is_left_growing(store: FolderStore, source: Path) -> None:
    blob = store.put(source, FILES)
    assert blob.folder.stat().st_mode & 0o777 == 0o555
    assert {path.stat().st_mode & 0o777 for path in blob.folder.iterdir()} == {0o444}
    assert list((store.root / "tmp").iterdir()) == []


def test_the_same_bytes_are_stored_once(store: FolderStore, source: Path) -> None:
    first = store.put(source, FILES)
    inode = (first.folder / "weights").stat().st_ino
    assert store.put(source, reversed(FILES)) == first
    assert (first.folder / "weights").stat().st_ino == inode
    assert list((store.root / "tmp").iterdir()) == []


def test_many_threads_putting_the_same_bytes_all_get_the_one_blob(store: FolderStore, source: Path) -> None:
    start, blobs = threading.Barrier(6), list[Blob]()

    def put() -> None:
        start.wait()
        blobs.append(store.put(source, FILES))

    threads = [threading.Thread(target=put) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(blobs) == 6
    assert len(set(blobs)) == 1
    store.verify(blobs[0].digest)
    assert list((store.root / "tmp").iterdir()) == []


CRASH = """
import os, sys
from pathlib import Path
from loradock_adapters.store import FolderStore
os.rename = lambda *_: os._exit(9)  # power fails after the last byte was written, before the rename
FolderStore(Path(sys.argv[1])).put(Path(sys.argv[2]), ["config.json", "weights"])
"""


def test_a_crash_before_the_rename_leaves_nothing_to_be_seen(store: FolderStore, source: Path) -> None:
    crashed = subprocess.run([sys.executable, "-c", CRASH, str(store.root), str(source)], check=False)
    assert crashed.returncode == 9
    digest = folder_digest(source, FILES)
    assert store.digests() == ()
    with pytest.raises(BlobMissing):
        store.path(digest)
    assert len(list((store.root / "tmp").iterdir())) == 1, "the crash was meant to happen after writing"
    # Fresh leftovers may belong to a living writer; old ones are swept, and the next writer is not disturbed.
    assert store.sweep() == 0
    assert store.put(source, FILES).digest == digest
    assert store.sweep(older_than_seconds=-60) == 1
    assert list((store.root / "tmp").iterdir()) == []
    store.verify(digest)


def test_one_changed_byte_is_noticed(store: FolderStore, source: Path) -> None:
    blob = store.put(source, FILES)
    _flip(blob.folder / "weights")
    assert store.path(blob.digest) == blob.folder
    with pytest.raises(BlobCorrupt, match=blob.digest):
        store.verify(blob.digest)


@pytest.mark.parametrize("damage", ["changed", "missing", "extra", "emptied"])
def test_putting_the_bytes_again_repairs_a_damaged_blob(store: FolderStore, source: Path, damage: str) -> None:
    blob = store.put(source, FILES)
    blob.folder.chmod(0o755)
    if damage == "changed":
        _flip(blob.folder / "weights")
    elif damage == "extra":
        (blob.folder / "more").write_bytes(b"")
    else:
        for name in FILES if damage == "emptied" else FILES[:1]:
            (blob.folder / name).unlink()
    with pytest.raises(BlobCorrupt):
        store.verify(blob.digest)
    assert store.put(source, FILES) == blob
    store.verify(blob.digest)
    assert list((store.root / "tmp").iterdir()) == []


@pytest.mark.parametrize("digest", ["", "..", "0" * 63, "G" * 64, "../" + "0" * 61, "0" * 64])
def test_what_is_no_stored_digest_is_missing(store: FolderStore, digest: str) -> None:
    with pytest.raises(BlobMissing) as caught:
        store.path(digest)
    assert isinstance(caught.value, LookupError)


@pytest.mark.parametrize("names", [[], [""], [".."], ["../source/config.json"], ["/etc/hostname"], ["a\0b"]])
def test_only_plain_names_are_taken(store: FolderStore, source: Path, names: list[str]) -> None:
    with pytest.raises(StoreError):
        store.put(source, names)
    assert store.digests() == ()


def test_a_file_that_cannot_be_read_leaves_nothing_behind(store: FolderStore, source: Path) -> None:
    with pytest.raises(StoreError, match="could not take"):
        store.put(source, [*FILES, "absent"])
    assert store.digests() == ()
    assert list((store.root / "tmp").iterdir()) == []


def _flip(path: Path) -> None:
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
