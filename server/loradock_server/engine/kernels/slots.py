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

    a: the slices' A one under the other. b[s]: the B of slice s, transposed and with the LoRA scale folded in; None
    where the adapter leaves the slice alone. All contiguous, in the model's dtype. They lie in one of two ways:

    plain   a (sum of ranks, in); b[s] (rank of s, width of s)
    paired  for `paired`, two neighbours of a sum beside each other: a (sum of ranks / 16, in / 2, 32), where each row
            of 32 holds two inputs for each of 16 ranks; b[s] (width / 16, rank / 2, 32), two ranks for each of 16
            outputs. Zeros fill odd ranks and the last 16.
    """

    a: torch.Tensor
    b: tuple[torch.Tensor | None, ...]

    @property
    def size_bytes(self) -> int:
        return int(self.a.nbytes + sum(b.nbytes for b in self.b if b is not None))

    def addresses(self) -> list[int]:
        """Address of `a`, how many ranks it holds, then for every slice its rank (its pairs) and the address of `b`."""
        row = [self.a.data_ptr(), self.a.shape[0] * (16 if self.a.ndim == 3 else 1)]
        for b in self.b:
            row += [0, 0] if b is None else [b.shape[b.ndim - 2], b.data_ptr()]
        return row


def pack(a: Sequence[torch.Tensor | None], b: Sequence[torch.Tensor | None], *, paired: bool = False) -> Packed | None:
    """Pack the slices' (rank, in) A and (width, rank) B matrices; None when there is nothing in any of them."""
    both = [(x, y) if x is not None and y is not None else None for x, y in zip(a, b, strict=True)]
    if not any(both):
        return None
    if not paired:
        rows = torch.cat([pair[0] for pair in both if pair])
        return Packed(rows.contiguous(), tuple(pair[1].T.contiguous() if pair else None for pair in both))
    even = [(_filled(pair[0], 0, 2), _filled(pair[1], 1, 2)) if pair else None for pair in both]
    rows = _filled(torch.cat([pair[0] for pair in even if pair]), 0, 16)
    return Packed(_in_pairs(rows), tuple(_in_pairs(pair[1]) if pair else None for pair in even))


def _filled(matrix: torch.Tensor, dimension: int, multiple: int) -> torch.Tensor:
    """With zeros behind it, so that its length is a multiple."""
    missing = -matrix.shape[dimension] % multiple
    if not missing:
        return matrix
    shape = list(matrix.shape)
    shape[dimension] = missing
    return torch.cat([matrix, matrix.new_zeros(shape)], dimension)


def _in_pairs(matrix: torch.Tensor) -> torch.Tensor:
    """(16 m, 2 n) of 16 bits → (m, n, 32): for every two columns, those of 16 rows beside each other."""
    twos = matrix.contiguous().view(torch.int32)
    return twos.view(-1, 16, twos.shape[1]).transpose(1, 2).contiguous().view(matrix.dtype)


class LayerSlots:
    """The slots of one layer. `widths`: output features of each slice.

    `table` holds the same for compiled kernels, one row a slot: `Packed.addresses` (int64; zeros where nothing is).
    """

    def __init__(self, slots: int, in_features: int, widths: Sequence[int]) -> None:
        self.in_features = in_features
        self.widths = np.asarray(widths, dtype=np.int64)
        self.packed: list[Packed | None] = [None] * slots
        self.table = np.zeros((slots, 2 + 2 * len(widths)), dtype=np.int64)

    def put(self, slot: int, packed: Packed | None) -> None:
        """Let a slot refer to an adapter's weights (which it keeps alive), or to nothing."""
        self.packed[slot] = packed
        self.table[slot] = 0 if packed is None else packed.addresses()
