"""A base with pickled weights, converted."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch

from loradock_adapters.base_convert import convert_base
from loradock_adapters.base_model import BaseModel
from loradock_adapters.errors import BaseModelError
from loradock_adapters.servable import Engine, obstacle

CONFIG = {"architectures": ["LlamaForCausalLM"], "vocab_size": 32}


def pickled(folder: Path, **files: dict[str, torch.Tensor]) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    for name, tensors in files.items():
        torch.save(tensors, folder / f"{name}.bin")
    return folder


def test_tensors_are_the_same_and_the_folder_can_be_served(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    embedding, q = torch.randn(32, 8), torch.randn(8, 8)
    tensors = {"lm_head.weight": embedding, "model.embed_tokens.weight": embedding, "x.q_proj.weight": q.T}
    source = pickled(tmp_path / "old", pytorch_model=tensors)
    assert obstacle(source, Engine()) is not None
    out = convert_base(source, tmp_path / "new")
    loaded = load_file(out / "model.safetensors")
    assert torch.equal(loaded["x.q_proj.weight"], q.T)
    assert loaded.keys() == {"lm_head.weight", "x.q_proj.weight"}, "tied tensors are written once"
    assert obstacle(out, Engine()) is None
    assert set(BaseModel.read(out).modules) == {"x.q_proj"}
    assert not list(out.glob("*.bin"))


def test_shards_stay_shards(tmp_path: Path) -> None:
    shards = {
        f"pytorch_model-0000{number}-of-00002": {f"{name}.q_proj.weight": torch.ones(2, 3)}
        for number, name in enumerate("xy", 1)
    }
    source = pickled(tmp_path / "old", **shards)
    (source / "pytorch_model.bin.index.json").write_text("{}")
    out = convert_base(source, tmp_path / "new")
    assert set(BaseModel.read(out).modules) == {"x.q_proj", "y.q_proj"}
    assert not (out / "pytorch_model.bin.index.json").exists()


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("boom",)


def test_a_pickle_that_runs_code_is_refused_and_nothing_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = pickled(tmp_path / "old")
    (source / "pytorch_model.bin").write_bytes(pickle.dumps({"x.weight": Bomb()}))
    with pytest.raises(BaseModelError, match="cannot be read as tensors alone"):
        convert_base(source, tmp_path / "new")
    assert "boom" not in capsys.readouterr().out
    assert not (tmp_path / "new").exists()


def test_a_folder_without_pickles_or_an_existing_target_is_said(tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match="nothing to convert"):
        convert_base(pickled(tmp_path / "old"), tmp_path / "new")
    source = pickled(tmp_path / "older", pytorch_model={"x.weight": torch.ones(1)})
    with pytest.raises(BaseModelError, match="exists"):
        convert_base(source, tmp_path / "old")
