"""Reading a base model's shapes and digest."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from loradock_adapters.base_model import BaseModel, LinearShape, base_digest
from loradock_adapters.digest import folder_digest
from loradock_adapters.errors import BaseModelError
from tests.adapters.making import safetensors_bytes, write_base


def test_linear_layers_are_modules_and_embeddings_norms_and_heads_are_not(tmp_path: Path) -> None:
    base = BaseModel.read(write_base(tmp_path))
    assert base.modules["model.layers.1.self_attn.v_proj"] == LinearShape(in_features=8, out_features=4)
    assert base.modules["model.layers.0.mlp.down_proj"] == LinearShape(in_features=12, out_features=8)
    assert len(base.modules) == 6
    assert (base.name, base.architecture, base.dtype, base.vocab_size) == (
        "tiny",
        "LlamaForCausalLM",
        "bfloat16",
        32,
    )


def test_shards_are_read_through_their_index(tmp_path: Path) -> None:
    folder = write_base(tmp_path)
    (folder / "model.safetensors").unlink()
    weights = {}
    for shard, name in enumerate(["x.q_proj.weight", "y.q_proj.weight"]):
        file = f"model-{shard}.safetensors"
        (folder / file).write_bytes(safetensors_bytes({name: np.zeros((2, 3), np.float32)}))
        weights[name] = file
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
    assert set(BaseModel.read(folder).modules) == {"x.q_proj", "y.q_proj"}


def test_an_index_may_not_point_out_of_the_folder(tmp_path: Path) -> None:
    folder = write_base(tmp_path)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../model.safetensors"}}))
    with pytest.raises(BaseModelError, match="plain file names"):
        BaseModel.read(folder)


def test_the_digest_is_over_all_files_and_remembered_until_one_changes(tmp_path: Path) -> None:
    folder = write_base(tmp_path)
    first = BaseModel.read(folder).digest
    assert first == folder_digest(folder, ["config.json", "model.safetensors"])
    assert base_digest(folder) == first, "its own memory must not count as a file of the model"
    # Same size, another byte: only the time stamp tells.
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(bytes(data))
    later = (folder / "model.safetensors").stat().st_mtime_ns + 1_000_000
    os.utime(folder / "model.safetensors", ns=(later, later))
    assert BaseModel.read(folder).digest not in {first, ""}


def test_a_spoilt_digest_memory_is_ignored(tmp_path: Path) -> None:
    folder = write_base(tmp_path)
    first = base_digest(folder)
    (folder / ".loradock-digest.json").write_bytes(b"{broken")
    assert base_digest(folder) == first


def test_a_fetched_model_has_the_name_and_digest_of_its_record(tmp_path: Path) -> None:
    folder = write_base(tmp_path)
    (folder / "loradock-base.json").write_text(json.dumps({"name": "smollm2", "digest": "ab" * 32}))
    base = BaseModel.read(folder)
    assert (base.name, base.digest) == ("smollm2", "ab" * 32)
    assert BaseModel.read(folder, name="mine").name == "mine"


@pytest.mark.parametrize("broken", ["config.json", "model.safetensors", "vocabulary", "quantised"])
def test_a_folder_that_is_no_readable_model_is_refused(tmp_path: Path, broken: str) -> None:
    folder = write_base(tmp_path)
    if broken == "vocabulary":
        (folder / "config.json").write_text('{"vocab_size": "many"}')
    elif broken == "quantised":
        tensors = {"x.q_proj.qweight": np.zeros((2, 3), np.int32)}
        (folder / "model.safetensors").write_bytes(safetensors_bytes(tensors))
    else:
        (folder / broken).unlink()
    with pytest.raises(BaseModelError):
        BaseModel.read(folder)
