"""A decoder's shapes, as far as memory and time follow from them: how many numbers it has, and where.

Knows no config and no family; `reading` has both. Counts are of numbers, not bytes.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LinearKind:
    """`count` linear modules of the whole model with one last name and one shape, in the layers' part `group`.

    `is_output`: it is what the part ends with (o_proj, down_proj), so its input is no layer norm's result.
    """

    name: str
    in_features: int
    out_features: int
    count: int
    group: str
    is_output: bool = False

    @property
    def numbers(self) -> int:
        """Of all of them, without biases."""
        return self.in_features * self.out_features * self.count

    def adapter_numbers(self, rank: int) -> int:
        """Of a LoRA on all of them."""
        return rank * (self.in_features + self.out_features) * self.count

    @property
    def is_attention(self) -> bool:
        return "att" in self.group


@dataclass(frozen=True, slots=True)
class CacheKind:
    """`layers` layers keep `numbers` for each token, keys and values together; of the latest `window` ones if set."""

    layers: int
    numbers: int
    window: int | None = None


@dataclass(frozen=True, slots=True)
class ModelShape:
    """`attention`: the width of what attention gives for a token, all heads together; `kv_dim`: of its keys.

    `linears`: the modules that adapters may be on. `mlp_kept`: how wide all MLPs together are between their norms and
    their outputs, for one token; `mlp_inner`: how wide one is before its output. `experts`: numbers in fused experts,
    which are no linear modules; a token goes through `active_experts` of them. `packed_besides`: numbers in linear
    modules that no adapter may be on, such as a vision tower's. `dtype`: of the checkpoint, as its config has it.
    """

    name: str
    hidden: int
    layers: int
    attention: int
    kv_dim: int
    vocab: int
    parameters: int
    linears: tuple[LinearKind, ...]
    mlp_kept: int
    mlp_inner: int
    caches: tuple[CacheKind, ...]
    dtype: str = "bfloat16"
    experts: int = 0
    active_experts: int = 0
    packed_besides: int = 0

    @property
    def targets(self) -> tuple[str, ...]:
        """Last names of the modules that adapters may be on, in the model's order."""
        return tuple(dict.fromkeys(kind.name for kind in self.linears))

    @property
    def linear_parameters(self) -> int:
        """Numbers in the modules that adapters may be on, without biases."""
        return sum(kind.numbers for kind in self.linears)

    @property
    def packed_parameters(self) -> int:
        """Numbers that NF4 packs: those of every linear module but the head."""
        return self.linear_parameters + self.packed_besides

    @property
    def other_parameters(self) -> int:
        """What NF4 leaves as it is: embeddings, output head if it is one of its own, norms, biases, fused experts."""
        return self.parameters - self.packed_parameters
