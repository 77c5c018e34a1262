"""Every test of what any store does runs on a folder and on a bucket of a real S3 server."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from loradock_adapters.store import FolderStore, Store, open_store
from tests.seaweed import Seaweed


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with two files that belong to an adapter and one that does not."""
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "config.json").write_bytes(b"{}")
    (folder / "weights").write_bytes(bytes(3_000_000))
    (folder / "notes.txt").write_bytes(b"not part of it")
    return folder


@pytest.fixture
def folder_store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store")


@pytest.fixture(scope="module")
def shared_bucket(seaweed: Seaweed) -> str:
    """Few buckets, many prefixes: SeaweedFS sets volumes aside for every bucket, until there are no more."""
    return seaweed.new_bucket()


@pytest.fixture
def bucket(shared_bucket: str, seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of an empty prefix in a bucket that this process can reach."""
    for name, value in seaweed.environment.items():
        monkeypatch.setenv(name, value)
    return f"s3://{shared_bucket}/team/{uuid.uuid4().hex}"


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        found: FolderStore = request.getfixturevalue("folder_store")
        return found
    return open_store(request.getfixturevalue("bucket"), tmp_path / "cache")
