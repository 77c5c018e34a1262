"""How many numbers a LoRA has: rank times (inputs plus outputs), for every module it is on, by the real shapes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from loradock_adapters.errors import BaseModelError
from loradock_adapters.planning.shape import ModelShape

ALL_LINEAR = "all-linear"


@dataclass(frozen=True, slots=True)
class LoraSize:
    """`targets`: last names of the modules it is on, in the model's order."""

    rank: int
    targets: tuple[str, ...]
    parameters: int

    @property
    def file_bytes(self) -> int:
        """Of adapter_model.safetensors as it is written here, in bf16; the header is not counted."""
        return 2 * self.parameters


def lora_size(shape: ModelShape, rank: int, targets: Iterable[str]) -> LoraSize:
    """Raises BaseModelError for a module that the model does not have, or none at all."""
    wanted = set(targets)
    if wanted == {ALL_LINEAR}:
        wanted = set(shape.linears)
    if unknown := wanted - shape.linears.keys():
        raise BaseModelError(
            f"{shape.name} has no linear module {sorted(unknown)[0][:60]!r}; choose from {', '.join(shape.linears)}, "
            f"or {ALL_LINEAR}"
        )
    if not wanted:
        raise BaseModelError(
            f"no module to put the adapter on; choose from {', '.join(shape.linears)}, or {ALL_LINEAR}"
        )
    chosen = tuple(name for name in shape.linears if name in wanted)
    each = sum(rank * (shape.linears[name].in_features + shape.linears[name].out_features) for name in chosen)
    return LoraSize(rank, chosen, shape.layers * each)


def explain(shape: ModelShape, size: LoraSize) -> list[str]:
    """The count, a line for each module, as one would do it on paper."""
    lines = []
    for name in size.targets:
        linear = shape.linears[name]
        numbers = size.rank * (linear.in_features + linear.out_features)
        full = linear.in_features * linear.out_features
        lines.append(
            f"{name}: {size.rank}·({linear.in_features} + {linear.out_features}) = {numbers:,} of {full:,} numbers "
            f"({full / numbers:.0f}× fewer)"
        )
    share = 100 * size.parameters / shape.parameters
    lines.append(
        f"× {shape.layers} layers = {size.parameters:,} numbers, {share:.2f} % of the model's {shape.parameters:,}"
    )
    square = 2 * shape.hidden * size.rank * len(size.targets) * shape.layers
    if square != size.parameters:
        lines.append(
            f"(2·{shape.hidden}·{size.rank} for each would give {square:,}: these modules are not all "
            f"{shape.hidden} × {shape.hidden}"
            + (
                f"; k and v have {shape.kv_dim} outputs, grouped-query attention)"
                if shape.kv_heads < shape.heads
                else ")"
            )
        )
    return lines
