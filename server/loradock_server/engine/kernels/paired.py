"""y += (x @ A.T) @ B.T in bf16 for all of a batch's segments in one call, on processors with AVX512-BF16.

Right for one row of each of many adapters as for hundreds of one: weights lie in pairs (`slots.Packed`) as the
instruction wants them, and while one adapter's row is computed the next one's weights are on their way. Between the two
products it rounds to bf16, as matrix products do. Import late, see `fused`, and only where `choice` says so: importing
compiles, and ends the process on another processor.
"""

from __future__ import annotations

from typing import Any

import numba
from numba import types

from .bf16_tiles import hidden_tile, output_tile

BLOCK_ROWS = 64  # computed between the two products; with its weights it stays in the second-level cache


_hidden_8, _hidden_4, _hidden_1 = hidden_tile(8, 1), hidden_tile(4, 2), hidden_tile(1, 4)
_output_4x64, _output_1x64 = output_tile(4, 4), output_tile(1, 4)
_output_4x16, _output_1x16 = output_tile(4, 1), output_tile(1, 1)


@numba.njit(inline="always")
def _add_columns(
    four_rows: Any, one_row: Any, tile: int, done: int, end: int,
    h: int, h_step: int, b: int, to_next: int, pairs: int, y: int, y_step: int, rows: int,
) -> None:  # fmt: skip
    """The columns from `done` to `end`, `tile` at a time, by two tiles of that width."""
    step = pairs * 64  # from 16 outputs to the next 16
    while done < end:
        weights, out, row = b + done * pairs * 4, y + done * 2, 0
        while row + 4 <= rows:
            four_rows(h + row * h_step, h_step, weights, step, pairs, out + row * y_step, y_step, weights)
            row += 4
        while row < rows:
            ahead = weights + to_next
            one_row(h + row * h_step, h_step, weights, step, pairs, out + row * y_step, y_step, ahead)
            row += 1
        done += tile


@numba.njit(inline="always")
def _add_part(
    h: int, h_step: int, b: int, to_next: int, pairs: int, y: int, y_step: int, rows: int, width: int
) -> None:
    """One slice's columns of one block of rows."""
    most = width // 64 * 64
    _add_columns(_output_4x64, _output_1x64, 64, 0, most, h, h_step, b, to_next, pairs, y, y_step, rows)
    _add_columns(_output_4x16, _output_1x16, 16, most, width, h, h_step, b, to_next, pairs, y, y_step, rows)


_SIGNATURE = types.void(
    types.int64,  # address of x, (rows, in) bf16
    types.int64,  # bytes from one row of x to the next
    types.int64,  # address of y, (rows, out) bf16
    types.int64,  # bytes from one row of y to the next
    types.int64,  # in features
    types.Array(types.int64, 2, "C"),  # (n, 3): start, end, slot
    types.Array(types.int64, 2, "C"),  # LayerSlots.table
    types.Array(types.int64, 1, "C"),  # LayerSlots.widths
    types.int64,  # address of scratch for BLOCK_ROWS rows of the highest sum of ranks, bf16
)


@numba.njit(_SIGNATURE, nogil=True, boundscheck=False, error_model="numpy")
def add_segments(
    x: int, x_step: int, y: int, y_step: int, features: int, segments: Any, table: Any, widths: Any, hidden: int
) -> None:
    """Add each segment's delta to `y` in place; see _SIGNATURE."""
    for number in range(segments.shape[0]):
        start, stop, slot = segments[number, 0], segments[number, 1], segments[number, 2]
        ranks = table[slot, 1]
        if ranks == 0:
            continue
        # Weights of the next segment, when they lie alike, are fetched ahead; else this segment's, which are here.
        after = segments[number + 1, 2] if number + 1 < segments.shape[0] else slot
        if table[after, 1] != ranks:
            after = slot
        to_next_a = table[after, 0] - table[slot, 0]
        while start < stop:
            end = min(stop, start + BLOCK_ROWS)
            for block in range(ranks // 16):
                a = table[slot, 0] + block * 16 * features * 2
                h = hidden + block * 32
                row = start
                while row + 8 <= end:
                    _hidden_8(x + row * x_step, x_step, a, a, features // 2, h + (row - start) * ranks * 2, ranks * 2)
                    row += 8
                if row + 4 <= end:
                    _hidden_4(x + row * x_step, x_step, a, a, features // 2, h + (row - start) * ranks * 2, ranks * 2)
                    row += 4
                while row < end:
                    _hidden_1(
                        x + row * x_step,
                        x_step,
                        a,
                        a + to_next_a,
                        features // 2,
                        h + (row - start) * ranks * 2,
                        ranks * 2,
                    )
                    row += 1
            h = hidden
            column = 0  # of y
            for part in range(widths.shape[0]):
                pairs, b = table[slot, 2 + 2 * part], table[slot, 3 + 2 * part]
                if pairs > 0:
                    to_next_b = table[after, 3 + 2 * part] - b if table[after, 2 + 2 * part] == pairs else 0
                    _add_part(
                        h,
                        ranks * 2,
                        b,
                        to_next_b,
                        pairs,
                        y + start * y_step + column * 2,
                        y_step,
                        end - start,
                        widths[part],
                    )
                    h += pairs * 4
                column += widths[part]
            start = end
