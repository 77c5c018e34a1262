"""Which layers a base has by PEFT's names: by headers where that suffices, by transformers, and by rules without it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("transformers")

from loradock_adapters import base_layers
from loradock_adapters.base_model import BaseModel
from loradock_adapters.base_modules import read_modules
from tests.adapters.making import safetensors_bytes
from tests.e2e.architectures.bases import GENERATING, POOLING, make_base

ASKED = ("qwen2.5-vl", "gemma3", "bert")  # where headers alone say too little


@pytest.fixture
def no_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base_layers, "can_build", lambda: False)


@pytest.mark.parametrize("name", [*GENERATING, *POOLING])
@pytest.mark.usefixtures("no_transformers")
def test_without_transformers_the_adaptable_layers_are_the_same(name: str, tmp_path: Path) -> None:
    make_base(name, tmp_path)
    base, truth = BaseModel.read(tmp_path), read_modules(tmp_path)
    assert base.modules == truth.adaptable
    assert (base.others.keys() != set()) == (name in ASKED)


@pytest.mark.parametrize("name", ASKED)
def test_transformers_is_asked_once_for_a_folder_and_again_when_the_configuration_changes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_base(name, tmp_path)
    asked: list[Path] = []

    def here(folder: Path) -> object:
        asked.append(folder)
        return read_modules(folder)

    monkeypatch.setattr(base_layers, "modules_elsewhere", here)
    first = BaseModel.read(tmp_path)
    assert BaseModel.read(tmp_path) == first
    assert len(asked) == 1
    assert first.digest == BaseModel.read(tmp_path).digest, "what was said is no part of the model"
    (tmp_path / "config.json").write_text((tmp_path / "config.json").read_text() + "\n")
    assert BaseModel.read(tmp_path).modules == first.modules
    assert len(asked) == 2


@pytest.mark.usefixtures("no_transformers")
def test_no_embedding_is_a_layer_that_adapters_may_change(tmp_path: Path) -> None:
    for name in [*GENERATING, *POOLING]:
        make_base(name, tmp_path / name)
        base = BaseModel.read(tmp_path / name)
        assert not [module for module in base.modules if "embed" in module or "head" in module.split(".")[-1]], name


@pytest.mark.parametrize(
    "quantisation",
    [
        {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True},
        {"quant_method": "gptq", "bits": 4, "group_size": 32},
        {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
        {"quant_method": "fp8", "weight_block_size": [32, 32], "activation_scheme": "dynamic"},
        {"quant_method": "compressed-tensors", "format": "int-quantized", "config_groups": {}},
    ],
)
def test_a_quantised_bases_layers_are_those_of_the_unquantised_one(
    quantisation: dict[str, object], tmp_path: Path
) -> None:
    make_base("llama", tmp_path / "plain")
    config = json.loads((tmp_path / "plain/config.json").read_text())
    folder = tmp_path / "quantised"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": quantisation}))
    packed = {"model.layers.0.self_attn.q_proj.qweight": np.zeros((128, 16), np.int32)}
    (folder / "model.safetensors").write_bytes(safetensors_bytes(packed))
    assert BaseModel.read(folder).modules == BaseModel.read(tmp_path / "plain").modules
