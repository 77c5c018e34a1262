"""Configurations of tiny models of many architectures, by model_type, as transformers takes them."""

from __future__ import annotations

from typing import Any

import transformers

_USUAL = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_GPT = {"vocab_size": 128, "n_embd": 64, "n_layer": 3, "n_head": 4, "bos_token_id": 1, "eos_token_id": 2}
_MIXED = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_LOCAL = {"num_local_experts": 4, "num_experts_per_tok": 2}
_LATENT = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "num_key_value_heads": 4,
    "kv_lora_rank": 16,
    "q_lora_rank": 24,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "n_group": 1,
    "topk_group": 1,
}
_WINDOWED = {"head_dim": 32, "sliding_window": 8, "layer_types": ["sliding_attention"] * 2 + ["full_attention"]}

DENSE: dict[str, dict[str, Any]] = {
    "llama": _USUAL | {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    "mistral": _USUAL | {"head_dim": 32, "sliding_window": 8},
    "qwen2": _USUAL,
    "qwen3": _USUAL | {"head_dim": 32},
    "gemma": _USUAL | {"head_dim": 16},
    "gemma2": _USUAL | _WINDOWED,
    "gemma3_text": _USUAL | _WINDOWED,
    "granite": _USUAL,
    "smollm3": _USUAL,
    "phi3": _USUAL,
    "phi": _USUAL,
    "olmo": _USUAL,
    "olmo2": _USUAL,
    "cohere": _USUAL,
    "glm4": _USUAL | {"head_dim": 16},
    "starcoder2": _USUAL,
    "stablelm": _USUAL,
    "nemotron": _USUAL,
    "gpt_neox": _USUAL,
    "falcon": _USUAL,
    "opt": _USUAL | {"ffn_dim": 96, "word_embed_proj_dim": 64},
    "gpt2": _GPT,
    "gptj": _GPT | {"rotary_dim": 8},
    "bloom": {"vocab_size": 128, "hidden_size": 64, "n_layer": 3, "n_head": 4},
}
MIXTURES: dict[str, dict[str, Any]] = {
    "mixtral": _USUAL | _LOCAL,
    "qwen2_moe": _USUAL | _MIXED | {"shared_expert_intermediate_size": 48},
    "qwen3_moe": _USUAL | _MIXED,
    "gpt_oss": _USUAL | _LOCAL | {"head_dim": 16},
    "granitemoe": _USUAL | _LOCAL,
    "deepseek_v2": _USUAL | _LATENT,
}


def config_of(kind: str) -> Any:
    """transformers' configuration of the tiny model."""
    return transformers.AutoConfig.for_model(kind, **(DENSE | MIXTURES)[kind])
