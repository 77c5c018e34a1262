"""Shapes of models that transformers builds, of many architectures: held to what it, PEFT and a real pass say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers

from loradock_adapters.base_modules import read_modules
from loradock_adapters.errors import BaseModelError
from loradock_adapters.planning import reading
from loradock_adapters.planning.families import FAMILIES, parse_shape
from loradock_adapters.planning.lora_size import explain, lora_size
from loradock_adapters.planning.reading import built_shape, read_shape
from loradock_adapters.planning.shape import ModelShape
from tests.adapters.tiny_models import DENSE, MIXTURES, config_of

RANK = 5
TOKENS = 6


def shape_of(kind: str, folder: Path) -> ModelShape:
    config_of(kind).save_pretrained(folder)
    return read_shape(folder)


@pytest.mark.parametrize("kind", [*DENSE, *MIXTURES])
def test_counts_are_those_of_the_model_and_of_the_adapter_that_peft_makes(kind: str, tmp_path: Path) -> None:
    shape = shape_of(kind, tmp_path)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config_of(kind))
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    head = model.get_output_embeddings()
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, (torch.nn.Linear, transformers.pytorch_utils.Conv1D)) and module is not head
    ]
    packed = sum(model.get_submodule(name).weight.numel() for name in names)
    assert (shape.packed_parameters, shape.other_parameters) == (packed, shape.parameters - packed)
    if kind in DENSE:
        every = peft.LoraConfig(r=RANK, target_modules="all-linear", fan_in_fan_out=kind == "gpt2")
        made = peft.get_peft_model(model, every)
        trained = sum(p.numel() for p in made.parameters() if p.requires_grad)
    else:  # PEFT's would be on experts too
        trained = sum(RANK * sum(model.get_submodule(name).weight.shape) for name in names)
    size = lora_size(shape, RANK, ["all-linear"])
    assert size.parameters == trained
    assert f"= {trained:,} numbers" in "".join(explain(shape, size))


@pytest.mark.parametrize("kind", [*DENSE, *MIXTURES])
def test_the_cache_is_as_large_as_that_of_a_real_pass(kind: str, tmp_path: Path) -> None:
    shape = shape_of(kind, tmp_path)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config_of(kind)).eval()
    with torch.no_grad():
        kept = model(input_ids=torch.randint(3, 100, (1, TOKENS)), use_cache=True).past_key_values.layers
    found = sorted(layer.keys.numel() + layer.values.numel() for layer in kept)
    assert sorted(TOKENS * one.numbers for one in shape.caches for _ in range(one.layers)) == found
    windows = [window for kind in kept if (window := getattr(kind, "sliding_window", None)) is not None]
    assert sum(one.layers for one in shape.caches if one.window is not None) == len(windows)


@pytest.mark.parametrize("kind", sorted(FAMILIES))
def test_a_family_counted_without_transformers_is_counted_alike(kind: str, tmp_path: Path) -> None:
    built = shape_of(kind, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert parse_shape(config, name=tmp_path.name) == built


@pytest.mark.parametrize("kind", MIXTURES)
def test_of_a_mixture_half_the_experts_are_gone_through_by_a_token(kind: str, tmp_path: Path) -> None:
    shape = shape_of(kind, tmp_path)
    assert shape.experts == 2 * shape.active_experts > 0
    with pytest.raises(BaseModelError, match="its experts are parameters"):
        lora_size(shape, RANK, ["w1"])
    assert "no adapter is on them" in explain(shape, lora_size(shape, RANK, ["all-linear"]))[-1]


def test_only_the_language_model_of_a_multimodal_one_takes_adapters_and_all_of_it_memory(tmp_path: Path) -> None:
    text = DENSE["qwen2"] | {"rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3]}}
    vision = {"depth": 1, "hidden_size": 32, "num_heads": 2, "intermediate_size": 64, "out_hidden_size": 64}
    config = transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision)
    config.architectures = ["Qwen2_5_VLForConditionalGeneration"]
    config.save_pretrained(tmp_path)

    shape, alone = read_shape(tmp_path), shape_of("qwen2", tmp_path / "text")

    assert (shape.linears, shape.caches) == (alone.linears, alone.caches)
    assert shape.parameters > alone.parameters
    assert shape.packed_besides > 0


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (transformers.T5Config(), "is an encoder with a decoder"),
        (transformers.MambaConfig(hidden_size=32, num_hidden_layers=1), "no num_attention_heads"),
        (
            transformers.Qwen3NextConfig(hidden_size=64, num_hidden_layers=4, intermediate_size=64),
            "layers of the kind linear_attention keep a state",
        ),
        (
            transformers.BertConfig(
                hidden_size=32, num_attention_heads=4, num_hidden_layers=1, architectures=["BertModel"]
            ),
            "no output head",
        ),
    ],
)
def test_what_the_arithmetic_does_not_cover_is_refused_with_what_is_missing(
    config: Any, said: str, tmp_path: Path
) -> None:
    config.save_pretrained(tmp_path)
    with pytest.raises(BaseModelError, match=said):
        read_shape(tmp_path)


def test_a_mixture_that_does_not_say_how_many_experts_a_token_goes_through_is_refused(tmp_path: Path) -> None:
    config_of("mixtral").save_pretrained(tmp_path)
    modules = read_modules(tmp_path)
    config = {name: value for name, value in modules.config.items() if name != "num_experts_per_tok"}
    with pytest.raises(BaseModelError, match="does not say how many"):
        built_shape(type(modules).from_plain({**modules.to_plain(), "config": config}), name="mixed")


def test_without_transformers_known_families_are_planned_and_others_hear_which_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in ("llama", "phi3"):
        config_of(kind).save_pretrained(tmp_path / kind)
    built = read_shape(tmp_path / "llama")
    monkeypatch.setattr(reading, "can_build", lambda: False)

    assert read_shape(tmp_path / "llama") == built
    with pytest.raises(BaseModelError, match=r"pip install 'loradock\[train\]'; without them are known: gemma, gran"):
        read_shape(tmp_path / "phi3")
