"""y += (x @ A.T) @ B.T, one adapter's rows at a time, by plain matrix products.

Right where a segment has many rows (prefill): the weights are read once per segment, never copied per token.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .segments import Segment
from .slots import LayerSlots


def add_segments(y: torch.Tensor, x: torch.Tensor, layer: LayerSlots, segments: Sequence[Segment]) -> None:
    """Add the adapters' deltas to `y` in place. x: (rows, in), y: (rows, sum of the layer's widths)."""
    for start, end, slot in segments:
        packed = layer.packed[slot]
        if packed is None:
            continue
        hidden = x[start:end] @ packed.a.T  # (rows, sum of ranks)
        offset = column = 0
        for b, width, scale in zip(packed.b, layer.widths, packed.scales, strict=True):
            if b is not None:
                rank = b.shape[0]
                y[start:end, offset : offset + width].addmm_(hidden[:, column : column + rank], b, alpha=scale)
                column += rank
            offset += width
