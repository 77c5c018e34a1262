"""A few families' shapes out of a config.json alone, for where transformers is not installed to build the model.

Attention with q, k, v and o, a gated MLP, RMS norms. It refuses what it would count wrong (mixtures of experts) instead
of guessing; tests hold its counts to those of the models that transformers builds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loradock_adapters.errors import BaseModelError
from loradock_adapters.planning.caches import caches_of
from loradock_adapters.planning.shape import LinearKind, ModelShape

FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3", "smollm3", "granite", "gemma"})
_TIED_BY_DEFAULT = frozenset({"gemma", "smollm3"})
_NORMS_ON_HEADS = frozenset({"qwen3"})
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")
_LARGEST = 1 << 24  # no dimension of a model is near it; products stay far below what overflows a table


def parse_shape(config: Mapping[str, Any], *, name: str) -> ModelShape:
    """The shape that a parsed config.json describes. Raises BaseModelError, naming every fault."""
    kind = config.get("model_type")
    if kind not in FAMILIES:
        raise BaseModelError(
            f"{name}: model_type {repr(kind)[:40]} cannot be planned here; known: {', '.join(sorted(FAMILIES))}"
        )
    if experts := [field for field in _EXPERTS if config.get(field)]:
        raise BaseModelError(
            f"{name}: {experts[0]} is {config[experts[0]]}; mixtures of experts cannot be planned here"
        )
    faults: list[str] = []
    hidden = _whole(config, "hidden_size", faults)
    heads = _whole(config, "num_attention_heads", faults)
    kv_heads = _whole(config, "num_key_value_heads", faults, default=heads)
    head_dim = _whole(config, "head_dim", faults, default=hidden // max(heads, 1))
    intermediate = _whole(config, "intermediate_size", faults)
    layers = _whole(config, "num_hidden_layers", faults)
    vocab = _whole(config, "vocab_size", faults)
    if not faults and heads % kv_heads:
        faults.append(f"num_attention_heads is {heads}, no multiple of num_key_value_heads, {kv_heads}")
    if faults:
        raise BaseModelError(f"{name}: " + "; ".join(faults))
    q, kv = heads * head_dim, kv_heads * head_dim
    linears = (
        LinearKind("q_proj", hidden, q, layers, "self_attn"),
        LinearKind("k_proj", hidden, kv, layers, "self_attn"),
        LinearKind("v_proj", hidden, kv, layers, "self_attn"),
        LinearKind("o_proj", q, hidden, layers, "self_attn", is_output=True),
        LinearKind("gate_proj", hidden, intermediate, layers, "mlp"),
        LinearKind("up_proj", hidden, intermediate, layers, "mlp"),
        LinearKind("down_proj", intermediate, hidden, layers, "mlp", is_output=True),
    )
    biases = q + 2 * kv if kind == "qwen2" or config.get("attention_bias") else 0
    biases += hidden if config.get("attention_bias") else 0
    biases += 2 * intermediate + hidden if config.get("mlp_bias") else 0
    norms = layers * (2 * hidden + (2 * head_dim if kind in _NORMS_ON_HEADS else 0)) + hidden
    tied = config.get("tie_word_embeddings")
    embeddings = 1 if (tied if isinstance(tied, bool) else kind in _TIED_BY_DEFAULT) else 2
    return ModelShape(
        name=name,
        hidden=hidden,
        layers=layers,
        attention=q,
        kv_dim=kv,
        vocab=vocab,
        parameters=sum(one.numbers for one in linears) + embeddings * vocab * hidden + norms + layers * biases,
        linears=linears,
        mlp_kept=3 * intermediate * layers,
        mlp_inner=intermediate,
        caches=caches_of(config, [kv] * layers),
        dtype=str(config.get("dtype") or config.get("torch_dtype") or "float32"),
    )


def _whole(config: Mapping[str, Any], field: str, faults: list[str], *, default: int = 0) -> int:
    value = config.get(field)
    if value is None and default:
        return default
    if type(value) is not int or not 1 <= value <= _LARGEST:
        faults.append(f"{field} is {repr(value)[:40]}; it must be a whole number from 1 to {_LARGEST}")
        return 1
    return value
