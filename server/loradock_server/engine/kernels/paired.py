"""Deltas in bf16 on processors with AVX512-BF16, whose instruction multiplies pairs of neighbours.

Right for one row of each of many adapters as for hundreds of one: weights lie in pairs (`slots.Layout`) as the
instruction wants them, and while one adapter's row is computed the next one's weights are on their way. Between the two
products it rounds to bf16, as matrix products do. Import late, see `blocks`, and only where `choice` says so: importing
compiles, and ends the process on another processor.
"""

from __future__ import annotations

from typing import Any

import numba

from .bf16_tiles import hidden_tile, output_tile
from .blocks import SEGMENTS, Tiles, make_add_rows
from .slots import RANKS

HIDDEN_BYTES = 2  # of a number between the two products

_add_rows = make_add_rows(
    Tiles(
        line=64,
        per_line=2,
        number=2,
        hidden=HIDDEN_BYTES,
        hidden_many=(8, hidden_tile(8, 1)),
        hidden_few=(4, hidden_tile(4, 2)),
        hidden_one=hidden_tile(1, 4),
        output_many=(4, 64, output_tile(4, 4)),
        output_many_16=output_tile(4, 1),
        output_one_64=output_tile(1, 4),
        output_one_16=output_tile(1, 1),
    )
)


@numba.njit(SEGMENTS, nogil=True, boundscheck=False, error_model="numpy")
def add_segments(
    x: int, x_step: int, y: int, y_step: int, features: int, segments: Any, table: Any, widths: Any, scratch: int
) -> None:
    """Add each segment's delta to `y` in place; see blocks.SEGMENTS."""
    for number in range(segments.shape[0]):
        slot = segments[number, 2]
        after = segments[number + 1, 2] if number + 1 < segments.shape[0] else slot
        if table[slot, RANKS] > 0:
            _add_rows(x, x_step, y, y_step, features // 2, segments[number, 0], segments[number, 1],
                      table[slot], table[after], widths, scratch)  # fmt: skip
