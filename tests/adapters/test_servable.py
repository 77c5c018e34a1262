"""What cannot be served is said before a process starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loradock_adapters.base_model import BaseModel
from loradock_adapters.check import check_adapter
from loradock_adapters.servable import Engine, experts, is_quantised, obstacle, obstacle_in, without_lora
from tests.adapters.making import safetensors_bytes, write_adapter, write_base

CPU, GPU, UNKNOWN = Engine("0.32", on_cpu=True), Engine("0.32", on_cpu=False), Engine()
LLAMA = {"architectures": ["LlamaForCausalLM"]}


def reason(config: dict[str, Any], engine: Engine, names: tuple[str, ...] = ("model.safetensors",)) -> str:
    found = obstacle_in({**LLAMA, **config}, names, engine)
    return "" if found is None else str(found)


@pytest.mark.parametrize("name", ["GPT2LMHeadModel", "FalconForCausalLM", "StableLmForCausalLM"])
@pytest.mark.parametrize("engine", [CPU, GPU, UNKNOWN, Engine("0.33", on_cpu=False), Engine("9.9")])
def test_a_class_without_adapters_in_vllm_is_told_for_every_engine(name: str, engine: Engine) -> None:
    assert f"serves {name} without LoRA" in reason({"architectures": [name]}, engine)


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "BertModel", "Gemma3ForConditionalGeneration", "NeverHeardOf"])
def test_other_classes_pass(name: str) -> None:
    assert reason({"architectures": [name]}, CPU) == ""


@pytest.mark.parametrize(
    "config",
    [
        {"num_local_experts": 8},
        {"num_experts": 4},
        {"n_routed_experts": 64},
        {"text_config": {"num_experts": 16}},
        {"moe_num_experts": [64, 64]},
    ],
)
def test_experts_are_served_with_adapters_on_a_gpu_only(config: dict[str, Any]) -> None:
    assert "Triton" in reason(config, CPU)
    assert reason(config, GPU) == reason(config, UNKNOWN) == ""
    assert experts(config) > 1


def test_a_dense_model_of_a_family_with_experts_has_none() -> None:
    assert experts({"num_local_experts": 0, "num_experts": None}) == 0


@pytest.mark.parametrize(
    ("quantisation", "said"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "bitsandbytes, NF4"),
        ({"quant_method": "awq"}, "AWQ"),
        ({"quant_method": "gptq"}, "GPTQ"),
        ({"quant_method": "fp8"}, "FP8"),
        ({"quant_method": "compressed-tensors"}, "compressed-tensors"),
        ({"quant_method": "brand-new"}, "brand-new"),
    ],
)
def test_quantised_bases_are_served_with_adapters_on_a_gpu_only(quantisation: dict[str, Any], said: str) -> None:
    config = {"quantization_config": quantisation}
    assert f"quantised ({said})" in reason(config, CPU)
    assert reason(config, GPU) == ""
    assert is_quantised(config)


def test_a_pickle_is_to_be_converted_unless_safetensors_lie_beside_it() -> None:
    assert "loradock base fetch --convert" in reason({}, CPU, ("pytorch_model.bin",))
    assert "pytorch_model-00001-of-00002.bin" in reason({}, GPU, ("pytorch_model-00001-of-00002.bin", "config.json"))
    assert reason({}, CPU, ("pytorch_model.bin", "model.safetensors.index.json")) == ""
    assert reason({}, CPU, ("config.json",)) == "", "a configuration alone may be planned with"


def test_of_a_version_that_nobody_looked_at_only_what_no_version_takes_is_refused() -> None:
    assert without_lora("0.32") > without_lora("9.9") < without_lora("0.33")
    assert "BertForSequenceClassification" in without_lora("0.32") - without_lora("0.33")


def test_the_check_never_says_fits_where_serving_is_impossible(tmp_path: Path) -> None:
    folder = write_base(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["FalconForCausalLM"]}))
    report = check_adapter(write_adapter(tmp_path / "adapter"), BaseModel.read(folder))
    assert [fault.code for fault in report.faults] == ["base_not_served"]
    assert "FalconForCausalLM" in report.faults[0].message


def test_a_folder_is_judged_by_its_files(tmp_path: Path) -> None:
    folder = write_base(tmp_path)
    assert obstacle(folder, CPU) is None
    (folder / "pytorch_model.bin").write_bytes(b"")
    assert obstacle(folder, CPU) is None
    (folder / "model.safetensors").unlink()
    assert obstacle(folder, CPU) is not None


def test_int8_weights_have_their_layers_shapes(tmp_path: Path) -> None:
    folder = write_base(tmp_path)
    tensors = {"model.layers.0.self_attn.q_proj.weight": np.zeros((4, 8), np.int8)}
    (folder / "model.safetensors").write_bytes(safetensors_bytes(tensors))
    assert set(BaseModel.read(folder).modules) == {"model.layers.0.self_attn.q_proj"}
