"""The true rank of every adapter in every slot of every layer, so that padding up to --max-lora-rank costs nothing.

vLLM's stacked buffers are padded to the server's highest rank and do not remember how much of a slot is in use.
"""

from __future__ import annotations

from typing import Any


class SlotRanks:
    """Ranks by layer, slot and slice. A rank of 0 means that the adapter does not touch this slice.

    A layer is recognised by the identity of its tuple of stacked A buffers, which lives as long as the layer.
    """

    def __init__(self) -> None:
        self._by_layer: dict[int, list[tuple[int, ...]]] = {}

    def set(self, stacked_a: tuple[Any, ...], slot: int, ranks: tuple[int, ...]) -> None:
        layer = self._by_layer.setdefault(id(stacked_a), [])
        while len(layer) <= slot:
            layer.append((0,) * len(stacked_a))
        layer[slot] = ranks

    def of(self, stacked_a: tuple[Any, ...]) -> list[tuple[int, ...]] | None:
        """Ranks per slot for this layer; None when nothing was recorded (count on the padded rank then)."""
        return self._by_layer.get(id(stacked_a))
