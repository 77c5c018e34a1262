"""One LoRA layer's adapters, slot by slot, packed for our arithmetic: true rank, no padding, no copy per token.

vLLM keeps two stacked buffers per layer, padded to the server's highest rank, and rewrites a whole slot whenever an
adapter enters it. Here a slot refers to weights that were packed when the adapter was read, so entering it is free.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

Layout = Literal["plain", "paired", "lines"]
"""plain    for matrix products: a (sum of ranks, in); b[s] (rank of s, width of s)
paired   for `paired`, two neighbours of a sum beside each other: a (sum of ranks / 16, in / 2, 32), where each row of
         32 holds two inputs for each of 16 ranks; b[s] (width / 16, rank / 2, 32), two ranks for each of 16 outputs
lines    for `wide`: a (sum of ranks / 16, in, 16), each row one input's weights for 16 ranks; b[s] (width / 16, rank,
         16), one rank's for 16 outputs

Zeros fill odd ranks and the last 16.
"""

# Columns of LayerSlots.table: address of A, how many ranks it holds, what its numbers are; then for every slice how
# many lines of B there are for 16 outputs (its rank, or its pairs), the address of B, and the bits of the scale in
# float32.
WEIGHTS, RANKS, NUMBERS, FIRST_SLICE = range(4)
LINES, SLICE_COLUMNS = 0, 3
DTYPES = (torch.float32, torch.bfloat16, torch.float16)  # by NUMBERS


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """One adapter's weights for one layer, which may have several output slices (q, k, v), in one of the `Layout`s.

    a: the slices' A one under the other. b[s]: the B of slice s, transposed; None where the adapter leaves the slice
    alone. scales[s]: what the product is multiplied with; 1 where that is in B already. All contiguous, of one dtype.
    """

    a: torch.Tensor
    b: tuple[torch.Tensor | None, ...]
    scales: tuple[float, ...]

    @property
    def size_bytes(self) -> int:
        return int(self.a.nbytes + sum(b.nbytes for b in self.b if b is not None))

    def row(self) -> list[int]:
        """A row of LayerSlots.table."""
        ranks = self.a.shape[0] * (16 if self.a.ndim == 3 else 1)
        row = [self.a.data_ptr(), ranks, DTYPES.index(self.a.dtype)]
        for b, scale in zip(self.b, self.scales, strict=True):
            row += [0, 0, 0] if b is None else [b.shape[b.ndim - 2], b.data_ptr(), float32_bits(scale)]
        return row


def float32_bits(number: float) -> int:
    """The bits of a number in float32, as a whole number."""
    return int(struct.unpack("<i", struct.pack("<f", number))[0])


def pack(
    a: Sequence[torch.Tensor | None],
    b: Sequence[torch.Tensor | None],
    *,
    layout: Layout = "plain",
    scales: Sequence[float] | None = None,
) -> Packed | None:
    """Pack the slices' (rank, in) A and (width, rank) B matrices; None when there is nothing in any of them."""
    both = [(x, y) if x is not None and y is not None else None for x, y in zip(a, b, strict=True)]
    if not any(both):
        return None
    factors = tuple(scales) if scales is not None else (1.0,) * len(both)
    if layout == "plain":
        rows = torch.cat([pair[0] for pair in both if pair])
        return Packed(rows.contiguous(), tuple(pair[1].T.contiguous() if pair else None for pair in both), factors)
    # Neighbours of a sum that lie beside each other.
    together = 2 if layout == "paired" else 1
    even = [(_filled(pair[0], 0, together), _filled(pair[1], 1, together)) if pair else None for pair in both]
    rows = torch.cat([pair[0] for pair in even if pair])
    return Packed(
        _in_lines(rows, together), tuple(_in_lines(pair[1], together) if pair else None for pair in even), factors
    )


def _filled(matrix: torch.Tensor, dimension: int, multiple: int) -> torch.Tensor:
    """With zeros behind it, so that its length is a multiple."""
    missing = -matrix.shape[dimension] % multiple
    if not missing:
        return matrix
    shape = list(matrix.shape)
    shape[dimension] = missing
    return torch.cat([matrix, matrix.new_zeros(shape)], dimension)


def _in_lines(matrix: torch.Tensor, together: int) -> torch.Tensor:
    """(m, n) → (m / 16, n / together, 16 · together): for each column, or two, those of 16 rows beside each other."""
    blocks = _filled(matrix, 0, 16).contiguous().view(-1, 16, matrix.shape[1] // together, together)
    return blocks.transpose(1, 2).contiguous().view(blocks.shape[0], blocks.shape[2], 16 * together)


class LayerSlots:
    """The slots of one layer. `widths`: output features of each slice.

    `table` holds the same for compiled kernels, one row a slot: `Packed.row` (int64; zeros where nothing is).
    """

    def __init__(self, slots: int, in_features: int, widths: Sequence[int]) -> None:
        self.in_features = in_features
        self.widths = np.asarray(widths, dtype=np.int64)
        self.packed: list[Packed | None] = [None] * slots
        self.table = np.zeros((slots, FIRST_SLICE + SLICE_COLUMNS * len(widths)), dtype=np.int64)

    def put(self, slot: int, packed: Packed | None) -> None:
        """Let a slot refer to an adapter's weights (which it keeps alive), or to nothing."""
        self.packed[slot] = packed
        self.table[slot] = 0 if packed is None else packed.row()
