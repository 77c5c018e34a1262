"""Blobs in a folder: atomic by a rename, read-only, repaired by putting the right bytes again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from loradock_adapters.digest import folder_digest
from loradock_adapters.errors import BlobCorrupt, BlobMissing
from loradock_adapters.store import FolderStore

FILES = ("config.json", "weights")


@pytest.fixture
def store(folder_store: FolderStore) -> FolderStore:
    return folder_store


def test_stored_files_are_read_only_and_nothing_is_left_growing(store: FolderStore, source: Path) -> None:
    folder = store.path(store.put(source, FILES).digest)
    assert folder.stat().st_mode & 0o777 == 0o555
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o444}
    assert list((store.root / "tmp").iterdir()) == []


def test_the_same_bytes_are_stored_once(store: FolderStore, source: Path) -> None:
    first = store.put(source, FILES)
    inode = (store.path(first.digest) / "weights").stat().st_ino
    assert store.put(source, reversed(FILES)) == first
    assert (store.path(first.digest) / "weights").stat().st_ino == inode


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
    folder = store.path(blob.digest)
    _flip(folder / "weights")
    with pytest.raises(BlobCorrupt, match=blob.digest):
        store.verify(blob.digest)


@pytest.mark.parametrize("damage", ["changed", "missing", "extra", "emptied"])
def test_putting_the_bytes_again_repairs_a_damaged_blob(store: FolderStore, source: Path, damage: str) -> None:
    blob = store.put(source, FILES)
    folder = store.path(blob.digest)
    folder.chmod(0o755)
    if damage == "changed":
        _flip(folder / "weights")
    elif damage == "extra":
        (folder / "more").write_bytes(b"")
    else:
        for name in FILES if damage == "emptied" else FILES[:1]:
            (folder / name).unlink()
    with pytest.raises(BlobCorrupt):
        store.verify(blob.digest)
    assert store.put(source, FILES) == blob
    store.verify(blob.digest)
    assert list((store.root / "tmp").iterdir()) == []


def _flip(path: Path) -> None:
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
