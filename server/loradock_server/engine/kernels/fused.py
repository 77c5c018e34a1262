"""y += (x @ A.T) @ B.T for a few rows of bf16, each with its own adapter: one compiled pass, sums in float32.

Right for decoding, where every row has another adapter and a matrix product per adapter is mostly overhead. Weights are
read once, straight from where they were packed. numba compiles it; import this module only once vLLM is up: its start
scans every loaded module and stumbles over llvmlite's objects.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic


@intrinsic
def _float_of(typingctx: Any, bits: Any) -> Any:
    """The float32 with these 32 bits."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.uint32), codegen


@intrinsic
def _bits_of(typingctx: Any, value: Any) -> Any:
    """The 32 bits of a float32."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.IntType(32))

    return types.uint32(types.float32), codegen


@intrinsic
def _at(typingctx: Any, address: Any) -> Any:
    """A pointer to 16-bit words at an address."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], ir.IntType(16).as_pointer())

    return types.CPointer(types.uint16)(types.int64), codegen


@numba.njit(inline="always")
def _wide(word: Any) -> Any:
    """bf16 → float32: the upper half of the bits."""
    return _float_of(np.uint32(word) << np.uint32(16))


@numba.njit(inline="always")
def _narrow(value: Any) -> Any:
    """float32 → bf16, to nearest, ties to even."""
    bits = _bits_of(value)
    return np.uint16((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))


_SIGNATURE = types.void(
    types.int64,  # address of x, (rows, in) bf16
    types.int64,  # words from one row of x to the next
    types.int64,  # address of y, (rows, out) bf16
    types.int64,  # words from one row of y to the next
    types.int64,  # in features
    types.Array(types.int64, 2, "C"),  # (n, 2): row, slot
    types.Array(types.int64, 2, "C"),  # LayerSlots.table
    types.Array(types.int64, 1, "C"),  # LayerSlots.widths
    types.Array(types.float32, 1, "C"),  # scratch: at least in features
    types.Array(types.float32, 1, "C"),  # scratch: at least the sum of ranks
    types.Array(types.float32, 1, "C"),  # scratch: at least the widest slice
)


@numba.njit(_SIGNATURE, fastmath=True, nogil=True, boundscheck=False, error_model="numpy")
def add_rows(
    x: int,
    x_step: int,
    y: int,
    y_step: int,
    features: int,
    rows: Any,
    table: Any,
    widths: Any,
    wide: Any,
    hidden: Any,
    sums: Any,
) -> None:
    """Add each row's delta to `y` in place; see _SIGNATURE. A row is (its number, its adapter's slot)."""
    for i in range(rows.shape[0]):
        row, slot = rows[i, 0], rows[i, 1]
        total = table[slot, 1]
        if total == 0:
            continue
        xs = carray(_at(x + row * x_step * 2), (features,))
        for k in range(features):
            wide[k] = _wide(xs[k])
        a = carray(_at(table[slot, 0]), (total, features))
        # Four rows of A at a time: each word of x is read once for four sums.
        r = 0
        while r + 4 <= total:
            s0 = s1 = s2 = s3 = np.float32(0)
            for k in range(features):
                v = wide[k]
                s0 += v * _wide(a[r, k])
                s1 += v * _wide(a[r + 1, k])
                s2 += v * _wide(a[r + 2, k])
                s3 += v * _wide(a[r + 3, k])
            hidden[r], hidden[r + 1], hidden[r + 2], hidden[r + 3] = s0, s1, s2, s3
            r += 4
        while r < total:
            s0 = np.float32(0)
            for k in range(features):
                s0 += wide[k] * _wide(a[r, k])
            hidden[r] = s0
            r += 1
        offset, column = 0, 0
        for s in range(widths.shape[0]):
            width, rank = widths[s], table[slot, 2 + 2 * s]
            if rank > 0:
                out = carray(_at(y + (row * y_step + offset) * 2), (width,))
                b = carray(_at(table[slot, 3 + 2 * s]), (rank, width))
                for o in range(width):
                    sums[o] = _wide(out[o])
                r = 0
                while r + 4 <= rank:
                    h0, h1, h2, h3 = (
                        hidden[column + r],
                        hidden[column + r + 1],
                        hidden[column + r + 2],
                        hidden[column + r + 3],
                    )
                    for o in range(width):
                        sums[o] += (
                            h0 * _wide(b[r, o])
                            + h1 * _wide(b[r + 1, o])
                            + h2 * _wide(b[r + 2, o])
                            + h3 * _wide(b[r + 3, o])
                        )
                    r += 4
                while r < rank:
                    h0 = hidden[column + r]
                    for o in range(width):
                        sums[o] += h0 * _wide(b[r, o])
                    r += 1
                for o in range(width):
                    out[o] = _narrow(sums[o])
                column += rank
            offset += width
