"""Adapter bytes for the engine: every load sees bytes that match their digest, whatever happened to the files since."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from loradock_adapters.base_model import BaseModel
from loradock_adapters.check import Limits
from loradock_adapters.signing import TrustedKey, sign_digest
from loradock_adapters.store import Blob, FolderStore
from loradock_server.engine.artifacts import StoredArtifacts
from loradock_server.engine.residency import AdapterGone, AdapterUnfit
from tests.adapters.making import lora_config, lora_tensors, write_adapter, write_base

FILES = ("adapter_config.json", "adapter_model.safetensors")


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store")


@pytest.fixture
def artifacts(tmp_path: Path, store: FolderStore) -> StoredArtifacts:
    base = BaseModel.read(write_base(tmp_path))
    return StoredArtifacts(store, base, Limits(max_rank=4, max_bytes=1 << 20))


@pytest.fixture
def blob(tmp_path: Path, store: FolderStore) -> Blob:
    return store.put(write_adapter(tmp_path / "adapter"), FILES)


def rot(folder: Path) -> None:
    """Flip one bit in the weights; size and times stay as they were."""
    path = folder / "adapter_model.safetensors"
    stat = path.stat()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    replace(path, bytes(data))

    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def truncate(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    replace(path, path.read_bytes()[:-100])


def lose_a_file(folder: Path) -> None:
    folder.chmod(0o755)
    (folder / "adapter_config.json").unlink()


def lose_everything(folder: Path) -> None:
    folder.chmod(0o755)
    shutil.rmtree(folder)


def replace(path: Path, data: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(data)


def test_a_sound_blob_is_handed_out(artifacts: StoredArtifacts, blob: Blob, store: FolderStore) -> None:
    assert artifacts.fetch(blob.digest) == store.path(blob.digest)


@pytest.mark.parametrize("harm", [rot, truncate, lose_a_file, lose_everything])
def test_bytes_that_were_good_once_are_refused_when_they_have_changed_since(
    harm: Callable[[Path], None], artifacts: StoredArtifacts, blob: Blob, store: FolderStore, tmp_path: Path
) -> None:
    artifacts.fetch(blob.digest)
    harm(store.path(blob.digest))
    with pytest.raises(AdapterGone, match="register the adapter again"):
        artifacts.fetch(blob.digest)
    store.put(tmp_path / "adapter", FILES)
    assert artifacts.fetch(blob.digest) == store.path(blob.digest)


def test_a_stored_adapter_that_cannot_be_served_is_refused_with_the_reason(
    artifacts: StoredArtifacts, store: FolderStore, tmp_path: Path
) -> None:
    tensors = lora_tensors()
    next(iter(tensors.values()))[0, 0] = np.nan
    blob = store.put(write_adapter(tmp_path / "nan", tensors=tensors), FILES)
    with pytest.raises(AdapterUnfit, match="NaN"):
        artifacts.fetch(blob.digest)


@pytest.mark.parametrize("digest", ["", "../../etc", "a" * 63, "A" * 64])
def test_what_is_no_digest_is_not_looked_for(digest: str, artifacts: StoredArtifacts) -> None:
    with pytest.raises(AdapterGone, match="is no digest"):
        artifacts.fetch(digest)


def test_where_signatures_are_demanded_only_signed_bytes_leave_the_store(tmp_path: Path, store: FolderStore) -> None:
    base = BaseModel.read(write_base(tmp_path))
    blob = store.put(write_adapter(tmp_path / "adapter"), FILES)
    other = store.put(write_adapter(tmp_path / "other", config=lora_config(lora_alpha=9)), FILES)
    trainer, stranger = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    trusted = TrustedKey("trainer", trainer.public_key().public_bytes_raw())
    artifacts = StoredArtifacts(store, base, Limits(max_rank=4, require_signature=True, trusted_keys=(trusted,)))

    refused: tuple[tuple[str, ...], ...] = (
        (),
        ("", "rubbish", "AAAA.AAAA"),
        (sign_digest(blob.digest, stranger).text,),
        (sign_digest(other.digest, trainer).text,),
    )
    for signatures in refused:
        with pytest.raises(AdapterUnfit, match="no signature of trainer"):
            artifacts.fetch(blob.digest, signatures)
    good = sign_digest(blob.digest, trainer).text
    assert artifacts.fetch(blob.digest, (*refused[2], good)) == store.path(blob.digest)
    with pytest.raises(AdapterUnfit):
        artifacts.fetch(blob.digest)  # asked again without: no verdict is kept about this
