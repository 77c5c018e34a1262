"""The process that reads adapters, as the engine uses it: a real one, and what becomes of a load when it dies."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from loradock_adapters.base_model import BaseModel
from loradock_adapters.signing import make_key, read_key, sign_digest
from loradock_adapters.store import Blob, FolderStore
from loradock_server.engine.residency import AdapterGone, AdapterUnfit, StoreUnreachable
from loradock_server.engine.signatures import Signatures
from loradock_server.engine.stager import NICENESS, Stager, StagerGone, StagerOrder
from loradock_server.engine.staging import Layer, Plan, Slice, unstage
from tests.adapters.making import lora_tensors, write_adapter, write_base

FILES = ("adapter_config.json", "adapter_model.safetensors")


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store")


@pytest.fixture
def base(tmp_path: Path) -> BaseModel:
    return BaseModel.read(write_base(tmp_path))


@pytest.fixture
def blob(store: FolderStore, tmp_path: Path) -> Blob:
    return store.put(write_adapter(tmp_path / "adapter"), FILES)


@pytest.fixture
def stager(store: FolderStore, base: BaseModel, tmp_path: Path) -> Iterator[Stager]:
    stager = Stager(StagerOrder(str(tmp_path / "store"), str(base.folder), max_rank=64, max_bytes=1 << 30))
    yield stager
    stager.close()


def plan_of(base: BaseModel, *, features: int | None = None) -> Plan:
    """Every linear layer of the base by itself."""
    layers = [
        Layer(name, features or shape.in_features, (Slice(name, shape.out_features),))
        for name, shape in base.modules.items()
    ]
    return Plan(tuple(layers), torch.float32, "plain")


def staged_rows(stager: Stager, folder: Path, base: BaseModel) -> int:
    staged = stager.stage(folder, plan_of(base).to_plain(), dict.fromkeys(base.modules, 1.0))
    found = unstage(staged.path)
    staged.close()
    return len(found)


def test_it_verifies_and_lays_out_at_low_priority_and_ends_with_the_engine(
    stager: Stager, store: FolderStore, blob: Blob, base: BaseModel
) -> None:
    assert stager.fetch(blob.digest) == store.path(blob.digest)
    assert staged_rows(stager, store.path(blob.digest), base) > 0
    assert stager._process is not None
    pid = stager._process.pid
    lowest = 19
    assert os.getpriority(os.PRIO_PROCESS, pid) == min(lowest, os.getpriority(os.PRIO_PROCESS, 0) + NICENESS)
    stager.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_what_is_wrong_with_an_adapter_comes_back_as_what_it_is(
    stager: Stager, store: FolderStore, blob: Blob, base: BaseModel, tmp_path: Path
) -> None:
    with pytest.raises(AdapterGone, match="no blob"):
        stager.fetch("0" * 64)
    tensors = lora_tensors()
    next(iter(tensors.values()))[0, 0] = np.nan
    bad = store.put(write_adapter(tmp_path / "nan", tensors=tensors), FILES)
    with pytest.raises(AdapterUnfit, match="NaN"):
        stager.fetch(bad.digest)
    with pytest.raises(AdapterUnfit, match="lora_A has shape"):
        stager.stage(store.path(blob.digest), plan_of(base, features=7).to_plain(), dict.fromkeys(base.modules, 1.0))
    with pytest.raises(AdapterUnfit):
        stager.stage(tmp_path / "nowhere", plan_of(base).to_plain(), dict.fromkeys(base.modules, 1.0))
    assert stager.fetch(blob.digest) == store.path(blob.digest)


def test_a_process_that_was_killed_is_replaced_without_anybody_noticing(
    stager: Stager, store: FolderStore, blob: Blob, base: BaseModel
) -> None:
    stager.fetch(blob.digest)
    assert stager._process is not None
    os.kill(stager._process.pid, signal.SIGKILL)
    assert staged_rows(stager, store.path(blob.digest), base) > 0


def test_a_process_that_does_not_answer_is_given_up_and_its_client_told_to_retry(
    store: FolderStore, blob: Blob, base: BaseModel, tmp_path: Path
) -> None:
    stager = Stager(
        StagerOrder(str(tmp_path / "store"), str(base.folder), max_rank=64, max_bytes=1 << 30), patience_seconds=0.01
    )
    began = time.monotonic()
    with pytest.raises(StagerGone, match="retry"):
        stager.fetch(blob.digest)  # no interpreter starts that fast
    assert time.monotonic() - began < 60
    stager.close()


def test_it_reads_only_what_a_trusted_key_signed_where_that_is_demanded(
    store: FolderStore, base: BaseModel, blob: Blob, tmp_path: Path
) -> None:
    trainer = make_key(tmp_path / "trainer.key", "trainer")
    signatures = Signatures()
    stager = Stager(
        StagerOrder(
            str(store.root), str(base.folder), 64, 1 << 30, require_signature=True, trusted_keys=(trainer.text,)
        ),
        signatures=signatures,
    )
    try:
        with pytest.raises(AdapterUnfit, match="trainer"):
            stager.fetch(blob.digest)
        signatures.note(blob.digest, sign_digest(blob.digest, read_key(tmp_path / "trainer.key")).text)
        assert stager.fetch(blob.digest) == store.path(blob.digest)
    finally:
        stager.close()


def test_a_bucket_that_does_not_answer_is_worth_a_retry(
    base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
    order = StagerOrder("s3://bucket/prefix", str(base.folder), 64, 1 << 30, artifacts_cache=str(tmp_path / "cache"))
    stager = Stager(order)
    try:
        with pytest.raises(StoreUnreachable, match="s3://bucket/prefix could not") as caught:
            stager.fetch("0" * 64)
    finally:
        stager.close()
    assert caught.value.status == 503
