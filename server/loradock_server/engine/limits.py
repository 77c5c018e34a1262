"""How much of the adapters may lie in memory at once, and how much of that may be pinned."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MemoryLimits:
    """`adapters` and `size_bytes` bound what is in memory; `places` adapters run at a time (admission's promise).

    Pins get the same share of both limits, so that the rest holds `places` adapters of size_bytes / adapters bytes.
    Raises ValueError when not even the running ones would fit.
    """

    adapters: int
    size_bytes: int
    places: int = 1

    def __post_init__(self) -> None:
        if self.adapters < self.places:
            raise ValueError(f"{self.adapters} adapters in memory, but {self.places} run at a time; allow as many")

    @property
    def pins(self) -> int:
        """How many adapters may be pinned."""
        return self.adapters - self.places

    @property
    def pinned_bytes(self) -> int:
        """What the pinned ones may take together."""
        return self.size_bytes * self.pins // self.adapters
