"""What a base model is made of, asked of transformers by its configuration alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")

import transformers

from loradock_adapters.base_modules import read_modules
from loradock_adapters.errors import BaseModelError
from loradock_adapters.linear_shape import LinearShape
from loradock_adapters.module_table import BaseModules, modules_elsewhere

_TEXT: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
_MLP = {"gate_proj", "up_proj", "down_proj"}


def _config(folder: Path, config: Any, architecture: str) -> Path:
    config.architectures = [architecture]
    config.save_pretrained(folder)
    return folder


def _last_names(modules: BaseModules) -> set[str]:
    return {name.rpartition(".")[2] for name in modules.linear}


def test_a_decoders_modules_are_its_linear_layers_without_the_head(tmp_path: Path) -> None:
    found = read_modules(_config(tmp_path, transformers.LlamaConfig(**_TEXT), "LlamaForCausalLM"))
    assert _last_names(found) == _ATTENTION | _MLP
    assert found.linear["model.layers.1.mlp.down_proj"] == LinearShape(96, 64)
    assert found.adaptable == found.linear
    assert not found.transposed
    assert not found.experts
    layer = 64 * 64 * 2 + 64 * 32 * 2 + 64 * 96 * 3 + 2 * 64
    assert found.parameters == 2 * layer + 64 + 2 * 128 * 64


def test_only_the_language_model_of_a_multimodal_one_is_adaptable(tmp_path: Path) -> None:
    vision = {"depth": 1, "hidden_size": 32, "num_heads": 2, "intermediate_size": 64, "out_hidden_size": 64}
    config = transformers.Qwen2_5_VLConfig(text_config=_TEXT, vision_config=vision)
    found = read_modules(_config(tmp_path, config, "Qwen2_5_VLForConditionalGeneration"))
    assert "model.visual.merger.mlp.0" in found.linear
    assert {name.rpartition(".layers.")[0] for name in found.adaptable} == {"model.language_model"}
    assert {name.rpartition(".")[2] for name in found.adaptable} == _ATTENTION | _MLP


def test_transposed_layers_have_the_shape_that_they_compute(tmp_path: Path) -> None:
    config = transformers.GPT2Config(vocab_size=128, n_embd=64, n_layer=1, n_head=4)
    found = read_modules(_config(tmp_path, config, "GPT2LMHeadModel"))
    assert found.linear["transformer.h.0.attn.c_attn"] == LinearShape(64, 192)
    assert found.transposed == found.linear.keys()


def test_fused_experts_are_told_and_are_no_linear_layers(tmp_path: Path) -> None:
    config = transformers.Qwen3MoeConfig(**_TEXT, num_experts=4, moe_intermediate_size=32)
    found = read_modules(_config(tmp_path, config, "Qwen3MoeForCausalLM"))
    assert _last_names(found) == _ATTENTION
    assert found.experts["model.layers.0.mlp.experts.gate_up_proj"] == (4, 64, 64)


def test_an_encoders_embeddings_are_no_linear_layers(tmp_path: Path) -> None:
    fields = {name: value for name, value in _TEXT.items() if name != "num_key_value_heads"}
    found = read_modules(_config(tmp_path, transformers.BertConfig(**fields), "BertModel"))
    assert _last_names(found) == {"query", "key", "value", "dense"}
    assert found.linear.keys() - found.adaptable.keys() == {"pooler.dense"}


def test_another_process_says_the_same(tmp_path: Path) -> None:
    folder = _config(tmp_path, transformers.LlamaConfig(**_TEXT), "LlamaForCausalLM")
    assert modules_elsewhere(folder) == read_modules(folder)


def test_what_transformers_does_not_know_is_said_by_both(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "no-such-model"}')
    for ask in (read_modules, modules_elsewhere):
        with pytest.raises(BaseModelError, match="transformers cannot build this model"):
            ask(tmp_path)
