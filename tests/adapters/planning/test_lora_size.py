"""The size of a LoRA by the real shapes, and the arithmetic that is shown with it."""

from __future__ import annotations

import pytest

from loradock_adapters.errors import BaseModelError
from loradock_adapters.planning.families import parse_shape
from loradock_adapters.planning.lora_size import explain, lora_size
from tests.adapters.planning.test_shape import LLAMA_3_8B

LLAMA = parse_shape(LLAMA_3_8B, name="llama")


def test_a_rank_of_8_on_a_square_of_4096_is_65536_numbers() -> None:
    size = lora_size(LLAMA, 8, ["q_proj"])
    assert size.parameters == 32 * 65_536
    assert explain(LLAMA, size)[0] == "q_proj: 8·(4096 + 4096) = 65,536 of 16,777,216 numbers (256× fewer)"


def test_grouped_query_attention_makes_v_smaller_than_the_rule_of_thumb_says() -> None:
    size = lora_size(LLAMA, 16, ["v_proj", "q_proj"])
    assert size.targets == ("q_proj", "v_proj")
    assert size.parameters == 32 * (16 * 8192 + 16 * 5120) == 6_815_744
    assert "would give 8,388,608" in explain(LLAMA, size)[-1]
    assert "grouped-query attention" in explain(LLAMA, size)[-1]


def test_all_linear_is_every_module_and_a_rule_of_thumb_that_holds_is_not_corrected() -> None:
    assert lora_size(LLAMA, 4, ["all-linear"]).targets == LLAMA.targets
    assert "would give" not in explain(LLAMA, lora_size(LLAMA, 4, ["q_proj"]))[-1]


@pytest.mark.parametrize(
    ("targets", "said"), [(["qkv"], "no linear module 'qkv'; choose from q_proj"), ([], "no module to put")]
)
def test_a_module_that_is_not_there_is_named(targets: list[str], said: str) -> None:
    with pytest.raises(BaseModelError, match=said):
        lora_size(LLAMA, 4, targets)


def test_the_size_is_that_of_the_adapter_which_peft_makes() -> None:
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    given = {
        "num_hidden_layers": 2,
        "hidden_size": 64,
        "intermediate_size": 96,
        "vocab_size": 100,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**given))
        made = peft.get_peft_model(model, peft.LoraConfig(r=5, target_modules=["k_proj", "down_proj"]))
    shape = parse_shape({"model_type": "llama", **given}, name="small")
    trained = sum(p.numel() for p in made.parameters() if p.requires_grad)
    assert lora_size(shape, 5, ["k_proj", "down_proj"]).parameters == trained
