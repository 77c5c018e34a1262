"""One LoRA layer's adapters, slot by slot, packed for our arithmetic: true rank, no padding, no copy per token.

vLLM keeps two stacked buffers per layer, padded to the server's highest rank, and rewrites a whole slot whenever an
adapter enters it. Here a slot refers to weights that were packed when the adapter was read, so entering it is free.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """One adapter's weights for one layer, which may have several output slices (q, k, v).

    a: (sum of ranks, in), the slices' A one under the other. b[s]: (rank of s, width of s), B transposed and with the
    LoRA scale folded in; None where the adapter leaves the slice alone. Both contiguous, in the model's dtype.
    """

    a: torch.Tensor
    b: tuple[torch.Tensor | None, ...]

    @property
    def size_bytes(self) -> int:
        return int(self.a.nbytes + sum(b.nbytes for b in self.b if b is not None))


def pack(a: Sequence[torch.Tensor | None], b: Sequence[torch.Tensor | None]) -> Packed | None:
    """Pack the slices' (rank, in) A and (width, rank) B matrices; None when there is nothing in any of them."""
    pairs = [(x, y) if x is not None and y is not None else None for x, y in zip(a, b, strict=True)]
    rows = [pair[0] for pair in pairs if pair is not None]
    if not rows:
        return None
    return Packed(
        torch.cat(rows).contiguous(),
        tuple(None if pair is None else pair[1].T.contiguous() for pair in pairs),
    )


class LayerSlots:
    """The slots of one layer. `widths`: output features of each slice.

    `table` holds the same as addresses for the fused kernel, one row a slot: address of `a`, its rows, then for every
    slice its rank and the address of its `b` (int64; zero where there is nothing).
    """

    def __init__(self, slots: int, in_features: int, widths: Sequence[int]) -> None:
        self.in_features = in_features
        self.widths = np.asarray(widths, dtype=np.int64)
        self.packed: list[Packed | None] = [None] * slots
        self.table = np.zeros((slots, 2 + 2 * len(widths)), dtype=np.int64)

    def put(self, slot: int, packed: Packed | None) -> None:
        """Let a slot refer to an adapter's weights (which it keeps alive), or to nothing."""
        self.packed[slot] = packed
        row = self.table[slot]
        row[:] = 0
        if packed is not None:
            row[0], row[1] = packed.a.data_ptr(), packed.a.shape[0]
            for index, b in enumerate(packed.b):
                if b is not None:
                    row[2 + 2 * index], row[3 + 2 * index] = b.shape[0], b.data_ptr()
