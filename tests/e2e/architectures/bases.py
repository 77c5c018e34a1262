"""Tiny bases with random weights, one for each architecture, made by transformers.

Faithful enough: names, shapes, packing and PEFT's and vLLM's code paths are a large one's; only numbers are few.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers

VOCABULARY = 160

_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_GROUPED = {**_SIZES, "num_key_value_heads": 2}
_HEADS_OF_32 = {**_GROUPED, "head_dim": 32}
_OPT = {name: value for name, value in _SIZES.items() if name != "intermediate_size"}

# By the name of the configuration's class: what it takes, and the model's class.
_TEXT: Mapping[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", "LlamaForCausalLM", {**_GROUPED, "attention_bias": True, "tie_word_embeddings": True}),
    "mistral": ("MistralConfig", "MistralForCausalLM", _HEADS_OF_32),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", _GROUPED),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", _HEADS_OF_32),
    "gemma": ("GemmaConfig", "GemmaForCausalLM", _HEADS_OF_32),
    "gemma2": ("Gemma2Config", "Gemma2ForCausalLM", {**_HEADS_OF_32, "query_pre_attn_scalar": 32}),
    "gemma3-text": ("Gemma3TextConfig", "Gemma3ForCausalLM", {**_HEADS_OF_32, "query_pre_attn_scalar": 32}),
    "granite": ("GraniteConfig", "GraniteForCausalLM", _GROUPED),
    "smollm3": ("SmolLM3Config", "SmolLM3ForCausalLM", _GROUPED),
    "phi3": ("Phi3Config", "Phi3ForCausalLM", _GROUPED),
    "phi": ("PhiConfig", "PhiForCausalLM", _SIZES),
    "olmo2": ("Olmo2Config", "Olmo2ForCausalLM", _GROUPED),
    "gpt-neox": ("GPTNeoXConfig", "GPTNeoXForCausalLM", _SIZES),
    "opt": ("OPTConfig", "OPTForCausalLM", {**_OPT, "ffn_dim": 192, "word_embed_proj_dim": 128}),
}
# Attention alone, and all linear layers of the language model; by PEFT's names.
_LLAMA = (["q_proj", "k_proj", "v_proj", "o_proj"], "all-linear")
_ATTENTION: Mapping[str, list[str]] = {
    "phi3": ["qkv_proj", "o_proj"],
    "phi": ["q_proj", "k_proj", "v_proj", "dense"],
    "gpt-neox": ["query_key_value", "dense"],
    "opt": ["q_proj", "k_proj", "v_proj", "out_proj"],
    "qwen2.5-vl": [r".*language_model.*\.[qkvo]_proj"],
    "gemma3": [r".*language_model.*\.[qkvo]_proj"],
    "bert": ["query", "key", "value"],
}

GENERATING = (*_TEXT, "qwen2.5-vl", "gemma3")
POOLING = ("bert",)


def attention(name: str) -> list[str] | str:
    """PEFT's target_modules for the attention of the language model."""
    targets = _ATTENTION.get(name, _LLAMA[0])
    return targets[0] if targets[0].startswith(".*") else targets


def make_base(name: str, folder: Path) -> Any:
    """Write the base below `folder` and return the model itself, in float32."""
    torch.manual_seed(7)
    model = _MULTIMODAL[name]() if name in _MULTIMODAL else _text_model(name)
    with torch.no_grad():
        for parameter in model.parameters():
            # Away from what a fresh model has: norms of 1, biases of 0.
            parameter += torch.randn_like(parameter) * 0.02
    model.eval().save_pretrained(folder)
    return model


def _text_model(name: str) -> Any:
    config, model, sizes = _TEXT[name]
    return getattr(transformers, model)(getattr(transformers, config)(**sizes))


def _qwen25_vl() -> Any:
    rope = {"rope_type": "default", "mrope_section": [4, 6, 6], "type": "default"}
    vision = {
        "depth": 1,
        "hidden_size": 32,
        "num_heads": 2,
        "intermediate_size": 64,
        "out_hidden_size": 128,
        "fullatt_block_indexes": [0],
    }
    config = transformers.Qwen2_5_VLConfig(
        text_config={**_GROUPED, "rope_parameters": rope, "rope_scaling": rope},
        vision_config=vision,
        image_token_id=150,
        video_token_id=151,
        vision_start_token_id=152,
        vision_end_token_id=153,
    )
    return transformers.Qwen2_5_VLForConditionalGeneration(config)


def _gemma3() -> Any:
    vision = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "image_size": 28,
        "patch_size": 14,
        "vision_use_head": False,
    }
    config = transformers.Gemma3Config(
        text_config={**_HEADS_OF_32, "query_pre_attn_scalar": 32},
        vision_config=vision,
        mm_tokens_per_image=4,
        boi_token_index=150,
        eoi_token_index=151,
        image_token_index=152,
    )
    return transformers.Gemma3ForConditionalGeneration(config)


def _bert() -> Any:
    return transformers.BertModel(transformers.BertConfig(**_SIZES))


_MULTIMODAL: Mapping[str, Callable[[], Any]] = {"qwen2.5-vl": _qwen25_vl, "gemma3": _gemma3, "bert": _bert}
