"""y += scale · (x @ A.T) @ B.T for some rows with one adapter's weights, in blocks that stay in a processor's caches.

The walk over rows and columns, the same for every way to multiply: `paired` and `wide` give it their tiles. numba
compiles it; import this module only once vLLM is up: its start scans every loaded module and stumbles over llvmlite's
objects.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numba
from numba import types
from numba.extending import intrinsic

from .slots import FIRST_SLICE, LINES, RANKS, SLICE_COLUMNS, WEIGHTS

BLOCK_ROWS = 64  # computed between the two products; with its weights it stays in the second-level cache
TAIL_BYTES = 64  # at the front of a scratch: columns that fill no vector


@dataclass(frozen=True, slots=True)
class Tiles:
    """One way to multiply. Sizes in bytes.

    A line has 16 lanes of weights for `per_line` neighbouring terms of a sum and takes `line` bytes. hidden_many,
    hidden_few: (rows, tile); hidden_one: tile. output_many: (rows, columns, tile); the others by their columns.
    """

    line: int
    per_line: int
    number: int  # of x and y
    hidden: int  # of a number between the two products
    hidden_many: tuple[int, Callable[..., None]]
    hidden_few: tuple[int, Callable[..., None]]
    hidden_one: Callable[..., None]
    output_many: tuple[int, int, Callable[..., None]]
    output_many_16: Callable[..., None]
    output_one_64: Callable[..., None]
    output_one_16: Callable[..., None]


@intrinsic
def words_at(context: Any, place: Any) -> Any:
    """Numbers of 16 bits at an address."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return types.CPointer(types.uint16)(types.int64), codegen


# What a way's compiled `add_segments` takes. Steps in bytes from one row to the next.
SEGMENTS = types.void(
    types.int64,  # address of x, (rows, in)
    types.int64,  # its step
    types.int64,  # address of y, (rows, out)
    types.int64,  # its step
    types.int64,  # in features
    types.Array(types.int64, 2, "C"),  # (n, 3): start, end, slot
    types.Array(types.int64, 2, "C"),  # LayerSlots.table
    types.Array(types.int64, 1, "C"),  # LayerSlots.widths
    types.int64,  # address of scratch: `scratch_bytes`
)

_NUMBERS = types.Array(types.int64, 1, "C")
_SLICE = types.void(*[types.int64] * 11)
_ROWS = types.void(*[types.int64] * 7, _NUMBERS, _NUMBERS, _NUMBERS, types.int64)


def scratch_bytes(ranks: int, hidden: int) -> int:
    """Room for a block of rows between the two products, `ranks` numbers of `hidden` bytes each, and for a tail."""
    return TAIL_BYTES + BLOCK_ROWS * -(-ranks // 16) * 16 * hidden


def make_add_rows(tiles: Tiles) -> Callable[..., None]:
    """Compiled code that adds one adapter's deltas to rows [start, stop) of y.

    It takes (x, x step, y, y step, lines, start, stop, the slot's row of LayerSlots.table, the row of the slot that
    comes next, LayerSlots.widths, scratch). Addresses as numbers, steps in bytes from one row to the next; `lines`: how
    many A has for a block of 16 ranks. scratch: see `scratch_bytes`.
    """
    line, number = tiles.line, tiles.number
    many, hidden_many = tiles.hidden_many
    few, hidden_few = tiles.hidden_few
    hidden_one = tiles.hidden_one
    rows_at_once, columns_at_once, output_many = tiles.output_many
    output_many_16, output_one_64, output_one_16 = tiles.output_many_16, tiles.output_one_64, tiles.output_one_16
    hidden_bytes, slice_bytes = tiles.hidden, tiles.per_line * tiles.hidden

    def walk(tile: Callable[..., None], at_once: int, columns: int) -> Callable[..., int]:
        @numba.njit(inline="always")
        def add_columns(
            h: int, h_step: int, b: int, ahead: int, lines: int, y: int, y_step: int, rows: int, done: int, end: int,
            scale: int,
        ) -> int:  # fmt: skip
            """Columns from `done` on that fill a tile, for all rows; returns the first column that is left."""
            step = lines * line  # from 16 outputs to the next 16
            while done + columns <= end:
                weights = b + done // 16 * step
                for row in range(0, rows, at_once):
                    tile(h + row * h_step, h_step, weights, step, lines, y + row * y_step + done * number, y_step,
                         weights + ahead, scale)  # fmt: skip
                done += columns
            return done

        return add_columns  # type: ignore[no-any-return]

    many_wide, many_16 = walk(output_many, rows_at_once, columns_at_once), walk(output_many_16, rows_at_once, 16)
    one_64, one_16 = walk(output_one_64, 1, 64), walk(output_one_16, 1, 16)

    @numba.njit(_SLICE, nogil=True, boundscheck=False, error_model="numpy")
    def add_slice(
        h: int, h_step: int, b: int, ahead: int, lines: int, y: int, y_step: int, rows: int, width: int, scale: int,
        tail: int,
    ) -> None:  # fmt: skip
        """One slice's columns of one block of rows."""
        most = rows // rows_at_once * rows_at_once
        done = 0
        if most:
            done = many_wide(h, h_step, b, ahead, lines, y, y_step, most, 0, width, scale)
            done = many_16(h, h_step, b, ahead, lines, y, y_step, most, done, width, scale)
        if most < rows:
            rest_h, rest_y = h + most * h_step, y + most * y_step
            done = one_64(rest_h, h_step, b, ahead, lines, rest_y, y_step, rows - most, 0, width, scale)
            done = one_16(rest_h, h_step, b, ahead, lines, rest_y, y_step, rows - most, done, width, scale)
        if done < width:  # less than 16 columns: in a place that has room for 16, and back
            weights, words = b + done // 16 * lines * line, (width - done) * number // 2
            there = words_at(tail)
            for row in range(rows):
                here = words_at(y + row * y_step + done * number)
                for word in range(words):
                    there[word] = here[word]
                output_one_16(h + row * h_step, h_step, weights, 0, lines, tail, 0, weights, scale)
                for word in range(words):
                    here[word] = there[word]

    @numba.njit(_ROWS, nogil=True, boundscheck=False, error_model="numpy")
    def add_rows(
        x: int, x_step: int, y: int, y_step: int, a_lines: int, start: int, stop: int,
        slot: Any, after: Any, widths: Any, scratch: int,
    ) -> None:  # fmt: skip
        ranks = slot[RANKS]
        h_step = ranks * hidden_bytes
        # Weights of the next segment, when they lie alike, are fetched ahead; else this segment's, which are here.
        alike = after[RANKS] == ranks
        ahead = after[WEIGHTS] - slot[WEIGHTS] if alike else 0
        hidden = scratch + TAIL_BYTES
        while start < stop:
            end = min(stop, start + BLOCK_ROWS)
            for block in range(ranks // 16):
                a = slot[WEIGHTS] + block * a_lines * line
                h = hidden + block * 16 * hidden_bytes
                row = start
                while row + many <= end:
                    hidden_many(x + row * x_step, x_step, a, a, a_lines, h + (row - start) * h_step, h_step)
                    row += many
                while row + few <= end:
                    hidden_few(x + row * x_step, x_step, a, a, a_lines, h + (row - start) * h_step, h_step)
                    row += few
                while row < end:
                    hidden_one(x + row * x_step, x_step, a, a + ahead, a_lines, h + (row - start) * h_step, h_step)
                    row += 1
            h = hidden
            column = 0  # of y
            for part in range(widths.shape[0]):
                at = FIRST_SLICE + part * SLICE_COLUMNS
                lines, b, scale = slot[at + LINES], slot[at + 1], slot[at + 2]
                if lines > 0:
                    next_b = after[at + 1] - b if alike and after[at + LINES] == lines else 0
                    add_slice(h, h_step, b, next_b, lines, y + start * y_step + column * number, y_step,
                              end - start, widths[part], scale, scratch)  # fmt: skip
                    h += lines * slice_bytes
                column += widths[part]
            start = end

    return add_rows  # type: ignore[no-any-return]
