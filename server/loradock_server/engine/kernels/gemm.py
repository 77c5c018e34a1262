"""y += (x @ A.T) @ B.T, one adapter's rows at a time, by plain matrix products.

Right for prefill, where a segment has many rows: the weights are read once per segment, never copied per token.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .segments import Segment


def add_segments(
    y: torch.Tensor,
    x: torch.Tensor,
    stacked_a: Sequence[torch.Tensor],
    stacked_b: Sequence[torch.Tensor],
    slice_widths: Sequence[int],
    segments: Sequence[Segment],
    ranks: list[tuple[int, ...]] | None,
) -> None:
    """Add the adapters' deltas to `y` in place.

    x: (rows, in). y: (rows, sum of slice_widths). stacked_a[s]: (slots, 1, max_rank, in).
    stacked_b[s]: (slots, 1, slice_widths[s], max_rank), with the LoRA scale already folded in.
    ranks[slot][s]: how many of max_rank are in use; None: all of them.
    """
    for start, end, slot in segments:
        rows = x[start:end]
        offset = 0
        for index, width in enumerate(slice_widths):
            rank = stacked_a[index].shape[2] if ranks is None else ranks[slot][index]
            if rank:
                a = stacked_a[index][slot, 0, :rank]  # (rank, in)
                b = stacked_b[index][slot, 0, :, :rank]  # (width, rank)
                y[start:end, offset : offset + width].addmm_(rows @ a.T, b.T)
            offset += width
