"""Deltas by arithmetic in float32 on any processor with AVX2, or AVX-512: for models in float32, bf16 or float16.

Weights keep the 16 bits that they were trained with and are widened in registers, which is exact. A scale that would
round them stays beside them. Import late, see `blocks`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numba

from loradock_adapters.processor import Processor

from .blocks import SEGMENTS, Tiles, make_add_rows
from .slots import NUMBERS, RANKS
from .wide_tiles import BYTES, Number, hidden_tile, output_tile

HIDDEN_BYTES = 4  # of a number between the two products


@cache
def make_add_segments(number: Number, *, long_vectors: bool) -> Callable[..., None]:
    """Compiled code that adds each segment's delta to `y` in place; see blocks.SEGMENTS. Takes seconds.

    `number`: of x and y. `long_vectors`: whether a register holds 16 numbers in float32, or 8.
    """
    in_float32, in_bfloat16, in_float16 = (
        make_add_rows(_tiles(weights, number, long_vectors)) for weights in ("float32", "bfloat16", "float16")
    )

    @numba.njit(SEGMENTS, nogil=True, boundscheck=False, error_model="numpy")
    def add_segments(
        x: int, x_step: int, y: int, y_step: int, features: int, segments: Any, table: Any, widths: Any, scratch: int
    ) -> None:
        for index in range(segments.shape[0]):
            start, stop, slot = segments[index, 0], segments[index, 1], segments[index, 2]
            after = segments[index + 1, 2] if index + 1 < segments.shape[0] else slot
            if table[after, NUMBERS] != table[slot, NUMBERS]:
                after = slot
            if table[slot, RANKS] == 0:
                continue
            if table[slot, NUMBERS] == 0:
                in_float32(x, x_step, y, y_step, features, start, stop, table[slot], table[after], widths, scratch)
            elif table[slot, NUMBERS] == 1:
                in_bfloat16(x, x_step, y, y_step, features, start, stop, table[slot], table[after], widths, scratch)
            else:
                in_float16(x, x_step, y, y_step, features, start, stop, table[slot], table[after], widths, scratch)

    return add_segments  # type: ignore[no-any-return]


def has_long_vectors(processor: Processor) -> bool:
    return processor.level in ("avx512", "avx512-bf16")


def _tiles(weights: Number, number: Number, long_vectors: bool) -> Tiles:
    """As many sums at once as there are registers for, and as the multiplier's latency wants."""

    def hidden(rows: int, chains: int) -> Callable[..., None]:
        return hidden_tile(rows, chains, weights, number)

    def output(rows: int, vectors: int) -> Callable[..., None]:
        return output_tile(rows, vectors, weights, number)

    return Tiles(
        line=16 * BYTES[weights],
        per_line=1,
        number=BYTES[number],
        hidden=HIDDEN_BYTES,
        hidden_many=(8, hidden(8, 1)) if long_vectors else (4, hidden(4, 1)),
        hidden_few=(4, hidden(4, 2)) if long_vectors else (2, hidden(2, 2)),
        hidden_one=hidden(1, 4),
        output_many=(4, 64, output(4, 4)) if long_vectors else (4, 16, output(4, 1)),
        output_many_16=output(4, 1),
        output_one_64=output(1, 4),
        output_one_16=output(1, 1),
    )
