"""`all-linear`: the modules that PEFT's own all-linear adapts, or a refusal that says why not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from transformers import AutoModelForCausalLM, Qwen2_5_VLConfig

from loradock_adapters.base_modules import read_modules
from loradock_adapters.module_table import BaseModules
from loradock_adapters.training.errors import RecipeError
from loradock_adapters.training.targets import target_names
from tests.adapters.tiny_models import DENSE, MIXTURES, config_of

ALL = ("all-linear",)
MAPPED_BY_PEFT = ("mixtral", "qwen3_moe", "deepseek_v2")


def modules_of(kind: str, folder: Path) -> BaseModules:
    config_of(kind).save_pretrained(folder)
    return read_modules(folder)


def adapted(kind: str, targets: str | list[str]) -> set[str]:
    """The modules, and parameters, that PEFT puts an adapter on."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config_of(kind))
    config = LoraConfig(r=2, target_modules=targets, task_type="CAUSAL_LM", fan_in_fan_out=kind == "gpt2")
    made = get_peft_model(model, config)
    return {name for name, module in made.named_modules() if isinstance(module, LoraLayer)}


@pytest.mark.parametrize("kind", [*DENSE, *(kind for kind in MIXTURES if kind not in MAPPED_BY_PEFT)])
def test_all_linear_is_what_peft_makes_of_it(kind: str, tmp_path: Path) -> None:
    names = target_names(ALL, modules_of(kind, tmp_path), kind)
    assert adapted(kind, list(names)) == adapted(kind, "all-linear") != set()


@pytest.mark.parametrize("kind", MAPPED_BY_PEFT)
def test_what_peft_would_put_on_experts_is_refused_and_the_rest_is_named(kind: str, tmp_path: Path) -> None:
    modules = modules_of(kind, tmp_path)
    for wanted in (ALL, ("o_proj", "w1" if kind == "mixtral" else "up_proj")):
        with pytest.raises(
            RecipeError, match=r"is a mixture of experts.*gate_up_proj.*cannot be served; name lin"
        ) as e:
            target_names(wanted, modules, kind)
    served = str(e.value).rpartition(": ")[2].split(", ")
    assert target_names(tuple(served), modules, kind) == tuple(served)
    assert {name.rpartition(".")[2] for name in adapted(kind, served)} == set(served)


def test_experts_that_peft_does_not_map_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="has gate_up_proj, of which gpt-oss has experts' parameters only"):
        target_names(("q_proj", "gate_up_proj"), modules_of("gpt_oss", tmp_path), "gpt-oss")


def test_beside_a_tower_with_the_same_names_the_language_model_is_named_in_full(tmp_path: Path) -> None:
    vision = {"depth": 1, "hidden_size": 32, "num_heads": 2, "intermediate_size": 64, "out_hidden_size": 64}
    config = Qwen2_5_VLConfig(text_config=DENSE["qwen2"], vision_config=vision)
    config.architectures = ["Qwen2_5_VLForConditionalGeneration"]
    config.save_pretrained(tmp_path)
    modules = read_modules(tmp_path)

    assert "up_proj" in {name.rpartition(".")[2] for name in modules.linear.keys() - modules.language}
    assert target_names(ALL, modules, "qwen") == tuple(modules.adaptable)


def test_names_are_left_as_they_are(tmp_path: Path) -> None:
    assert target_names(("q_proj", "nowhere"), modules_of("llama", tmp_path), "llama") == ("q_proj", "nowhere")
