"""A decoder's shapes out of its config.json: how many numbers it has, and where.

For the family that adapters are trained on here: attention with q, k, v and o, a gated MLP, RMS norms. It refuses what
it would count wrong (mixtures of experts, fused projections) instead of guessing. It reads no weight.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from loradock_adapters.base_model import MAX_JSON_BYTES, LinearShape
from loradock_adapters.errors import BaseModelError
from loradock_adapters.files import read_capped
from loradock_adapters.strict_json import parse_object

FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3", "smollm3", "granite", "gemma"})
_TIED_BY_DEFAULT = frozenset({"gemma", "smollm3"})
_NORMS_ON_HEADS = frozenset({"qwen3"})
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")
_LARGEST = 1 << 24  # no dimension of a model is near it; products stay far below what overflows a table


@dataclass(frozen=True, slots=True)
class ModelShape:
    """`linears`: the linear modules of one layer by their last name. Counts are of numbers, not bytes.

    `dtype`: what the checkpoint is in, as its config has it.
    """

    name: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    tied: bool
    biases: int  # of one layer's linear modules
    head_norms: bool
    max_length: int
    linears: Mapping[str, LinearShape]
    dtype: str = "bfloat16"

    @property
    def kv_dim(self) -> int:
        """Numbers that k (and likewise v) has for one token in one layer."""
        return self.kv_heads * self.head_dim

    @property
    def linear_parameters(self) -> int:
        """Numbers in all layers' linear modules, without biases."""
        return self.layers * sum(shape.in_features * shape.out_features for shape in self.linears.values())

    @property
    def other_parameters(self) -> int:
        """Embeddings, output head if it is one of its own, norms, biases."""
        norms = self.layers * (2 * self.hidden + (2 * self.head_dim if self.head_norms else 0)) + self.hidden
        return self.vocab * self.hidden * (1 if self.tied else 2) + norms + self.layers * self.biases

    @property
    def parameters(self) -> int:
        return self.linear_parameters + self.other_parameters


def read_shape(folder: Path) -> ModelShape:
    """The shape of a model folder; only its config.json is read. Raises BaseModelError."""
    path = folder if folder.name == "config.json" else folder / "config.json"
    try:
        config = parse_object(read_capped(path, MAX_JSON_BYTES))
    except (OSError, ValueError) as error:
        raise BaseModelError(
            f"{path} cannot be read: {error}; give a model folder, or a hub id like org/name"
        ) from error
    return parse_shape(config, name=path.resolve().parent.name)


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
    longest = _whole(config, "max_position_embeddings", faults, default=2048)
    if not faults and heads % kv_heads:
        faults.append(f"num_attention_heads is {heads}, no multiple of num_key_value_heads, {kv_heads}")
    if faults:
        raise BaseModelError(f"{name}: " + "; ".join(faults))
    q, kv = heads * head_dim, kv_heads * head_dim
    linears = {
        "q_proj": LinearShape(hidden, q),
        "k_proj": LinearShape(hidden, kv),
        "v_proj": LinearShape(hidden, kv),
        "o_proj": LinearShape(q, hidden),
        "gate_proj": LinearShape(hidden, intermediate),
        "up_proj": LinearShape(hidden, intermediate),
        "down_proj": LinearShape(intermediate, hidden),
    }
    attention = q + 2 * kv if kind == "qwen2" or config.get("attention_bias") else 0
    attention += hidden if config.get("attention_bias") else 0
    tied = config.get("tie_word_embeddings")
    return ModelShape(
        name=name,
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate=intermediate,
        vocab=vocab,
        tied=tied if isinstance(tied, bool) else kind in _TIED_BY_DEFAULT,
        biases=attention + (2 * intermediate + hidden if config.get("mlp_bias") else 0),
        head_norms=kind in _NORMS_ON_HEADS,
        max_length=longest,
        linears=MappingProxyType(linears),
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
