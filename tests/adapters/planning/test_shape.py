"""Shapes out of a config.json: what is counted, and what is refused rather than guessed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from loradock_adapters.errors import BaseModelError
from loradock_adapters.planning.families import parse_shape
from loradock_adapters.planning.reading import read_shape

LLAMA_3_8B: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "tie_word_embeddings": False,
}


def test_llama_3_8b_has_as_many_parameters_as_its_makers_say() -> None:
    assert parse_shape(LLAMA_3_8B, name="llama").parameters == 8_030_261_248


def test_a_count_equals_that_of_the_model_which_transformers_builds() -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    small = {"num_hidden_layers": 3, "hidden_size": 64, "intermediate_size": 96, "vocab_size": 100}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    for kind, extra in (
        ("llama", {}),
        ("llama", {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}),
        ("mistral", {"head_dim": 32, "tie_word_embeddings": False}),
        ("qwen2", {"tie_word_embeddings": True}),
        ("qwen3", {"head_dim": 32, "tie_word_embeddings": False}),
        ("smollm3", {"tie_word_embeddings": True, "pad_token_id": 1, "bos_token_id": 1, "eos_token_id": 1}),
        ("granite", {"tie_word_embeddings": False}),
        ("gemma", {"head_dim": 16, "tie_word_embeddings": True}),
    ):
        given = {**small, **heads, **extra}
        config = transformers.AutoConfig.for_model(kind, **given)
        with torch.device("meta"):
            model = transformers.AutoModelForCausalLM.from_config(config)
        shape = parse_shape({"model_type": kind, **given}, name=kind)
        assert shape.parameters == sum(p.numel() for p in model.parameters()), (kind, extra)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "gpt2"}, "model_type 'gpt2' cannot be planned here; known: gemma"),
        ({"model_type": None}, "model_type None"),
        ({"num_local_experts": 8}, "mixtures of experts"),
        ({"hidden_size": "4096"}, "hidden_size is '4096'; it must be a whole number"),
        ({"hidden_size": True}, "hidden_size is True"),
        ({"num_hidden_layers": 0, "vocab_size": 1 << 40}, "num_hidden_layers is 0.*vocab_size is 1099511627776"),
        ({"num_key_value_heads": 5}, "no multiple of num_key_value_heads, 5"),
    ],
)
def test_what_would_be_counted_wrong_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(BaseModelError, match=said):
        parse_shape({**LLAMA_3_8B, **change}, name="model")


def test_a_folder_and_its_config_give_the_same_and_a_missing_one_says_so(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_3_8B))
    assert read_shape(tmp_path) == read_shape(tmp_path / "config.json")
    with pytest.raises(BaseModelError, match="cannot be read"):
        read_shape(tmp_path / "nothing")
