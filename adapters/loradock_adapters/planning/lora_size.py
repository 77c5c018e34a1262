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
        wanted = set(shape.targets)
    if unknown := wanted - set(shape.targets):
        fused = "; its experts are parameters, which no adapter can be on here" if shape.experts else ""
        raise BaseModelError(
            f"{shape.name} has no linear module {sorted(unknown)[0][:60]!r}; choose from {', '.join(shape.targets)}, "
            f"or {ALL_LINEAR}{fused}"
        )
    if not wanted:
        raise BaseModelError(
            f"no module to put the adapter on; choose from {', '.join(shape.targets)}, or {ALL_LINEAR}"
        )
    chosen = tuple(name for name in shape.targets if name in wanted)
    numbers = sum(kind.adapter_numbers(rank) for kind in shape.linears if kind.name in wanted)
    return LoraSize(rank, chosen, numbers)


def explain(shape: ModelShape, size: LoraSize) -> list[str]:
    """The count, a line for each kind of module, as one would do it on paper."""
    chosen = [kind for kind in shape.linears if kind.name in size.targets]
    even = all(kind.count == shape.layers for kind in chosen)
    lines = []
    for kind in chosen:
        numbers = size.rank * (kind.in_features + kind.out_features)
        full = kind.in_features * kind.out_features
        times = "" if even else f", × {kind.count}"
        lines.append(
            f"{kind.name}: {size.rank}·({kind.in_features} + {kind.out_features}) = {numbers:,} of {full:,} numbers "
            f"({full / numbers:.0f}× fewer){times}"
        )
    share = 100 * size.parameters / shape.parameters
    together = f"× {shape.layers} layers" if even else "together"
    lines.append(f"{together} = {size.parameters:,} numbers, {share:.2f} % of the model's {shape.parameters:,}")
    square = 2 * shape.hidden * size.rank * sum(kind.count for kind in chosen)
    if square != size.parameters:
        lines.append(
            f"(2·{shape.hidden}·{size.rank} for each would give {square:,}: these modules are not all "
            f"{shape.hidden} × {shape.hidden}"
            + (
                f"; k and v have {shape.kv_dim} outputs, grouped-query attention)"
                if shape.kv_dim < shape.attention
                else ")"
            )
        )
    if shape.experts:
        lines.append(
            f"(the experts' {shape.experts:,} numbers are parameters and no linear modules: no adapter is on them here)"
        )
    return lines
