"""The two inner loops of a LoRA delta in float32, written as LLVM code that numba puts into a compiled function.

Weights of 16 bits are read as they are and widened in registers: what decoding with many adapters costs is mostly the
reading of their weights. Vectors have 16 numbers; where a register holds 8, LLVM makes two of each. Needs fused
multiply-add (AVX2 machines have it). Addresses and steps in bytes; nothing is checked here. Import late, see `blocks`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .vectors import (
    F32,
    FLOATS,
    I32,
    I64,
    INTS,
    WORDS,
    address,
    everywhere,
    fetch,
    function,
    load,
    store,
    sum_of,
    zeros,
)

Number = Literal["float32", "bfloat16", "float16"]
BYTES: dict[Number, int] = {"float32": 4, "bfloat16": 2, "float16": 2}

_HALVES = ir.VectorType(ir.HalfType(), 16)


def hidden_tile(rows: int, chains: int, weights: Number, inputs: Number) -> Callable[..., None]:
    """hidden[i, 0:16] = Σk x[i, k] · a[k, 0:16] for `rows` rows, in float32.

    The function that is returned takes (x, x step, a, ahead, lines, hidden, hidden step); `lines`: inputs, since a line
    of `a` has 16 weights for one of them. `ahead` and `chains`: see bf16_tiles.
    """

    @intrinsic
    def tile(context: Any, x: Any, x_step: Any, a: Any, ahead: Any, lines: Any, hidden: Any, hidden_step: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            x, x_step, a, ahead, lines, hidden, hidden_step = args
            sums = [[zeros(builder) for _ in range(chains)] for _ in range(rows)]
            row_starts = [address(builder, x, i, x_step) for i in range(rows)]

            def step(k: Any, chain: int) -> None:
                line = builder.mul(k, I64(16 * BYTES[weights]))
                wide = _wide(builder, builder.add(a, line), weights)
                if rows == 1:
                    fetch(builder, builder.add(ahead, line))
                for row, start in enumerate(row_starts):
                    one = _one(builder, address(builder, start, k, I64(BYTES[inputs])), inputs)
                    _accumulate(builder, sums[row][chain], everywhere(builder, one, FLOATS), wide)

            whole = builder.udiv(lines, I64(chains))
            with cgutils.for_range(builder, whole) as loop:
                for chain in range(chains):
                    step(builder.add(builder.mul(loop.index, I64(chains)), I64(chain)), chain)
            if chains > 1:
                with cgutils.for_range_slice(builder, builder.mul(whole, I64(chains)), lines, I64(1), I64) as (k, _):
                    step(k, 0)
            for row in range(rows):
                store(builder, sum_of(builder, sums[row]), address(builder, hidden, row, hidden_step), 4)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 7), codegen

    return tile  # type: ignore[no-any-return]


def output_tile(rows: int, vectors: int, weights: Number, outputs: Number) -> Callable[..., None]:
    """y[i, 0:16·vectors] += scale · Σr hidden[i, r] · b[r, 0:16·vectors] for `rows` rows, rounded once to `outputs`.

    Takes (hidden, hidden step, b, b step, lines, y, y step, ahead, scale). `lines`: the rank. `b step`: from 16 outputs
    to the next 16. `scale`: the bits of a float32.
    """

    @intrinsic
    def tile(
        context: Any, hidden: Any, hidden_step: Any, b: Any, b_step: Any, lines: Any, y: Any, y_step: Any, ahead: Any,
        scale: Any,
    ) -> Any:  # fmt: skip
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            hidden, hidden_step, b, b_step, lines, y, y_step, ahead, scale = args
            sums = [[zeros(builder) for _ in range(vectors)] for _ in range(rows)]
            row_starts = [address(builder, hidden, i, hidden_step) for i in range(rows)]
            with cgutils.for_range(builder, lines) as loop:
                line = builder.mul(loop.index, I64(16 * BYTES[weights]))
                places = [builder.add(line, builder.mul(b_step, I64(v))) for v in range(vectors)]
                wide = [_wide(builder, builder.add(b, place), weights) for place in places]
                if rows == 1:
                    for place in places:
                        fetch(builder, builder.add(ahead, place))
                for row, start in enumerate(row_starts):
                    one = load(builder, address(builder, start, loop.index, I64(4)), F32, 4)
                    for vector in range(vectors):
                        _accumulate(builder, sums[row][vector], everywhere(builder, one, FLOATS), wide[vector])
            factor = everywhere(builder, builder.bitcast(builder.trunc(scale, I32), F32), FLOATS)
            for row in range(rows):
                for vector in range(vectors):
                    place = builder.add(address(builder, y, row, y_step), I64(16 * BYTES[outputs] * vector))
                    old = _wide(builder, place, outputs)
                    new = builder.call(_fma(builder), [builder.load(sums[row][vector]), factor, old])
                    store(builder, _narrow(builder, new, outputs), place, BYTES[outputs])
            return context.get_dummy_value()

        return types.void(*[types.int64] * 9), codegen

    return tile  # type: ignore[no-any-return]


def _wide(builder: Any, place: Any, kind: Number) -> Any:
    """16 numbers from memory, as float32."""
    if kind == "float32":
        return load(builder, place, FLOATS, 4)
    if kind == "float16":
        return builder.fpext(load(builder, place, _HALVES, 2), FLOATS)
    words = builder.zext(load(builder, place, WORDS, 2), INTS)
    return builder.bitcast(builder.shl(words, ir.Constant(INTS, [16] * 16)), FLOATS)


def _one(builder: Any, place: Any, kind: Number) -> Any:
    """One number from memory, as float32."""
    if kind == "float32":
        return load(builder, place, F32, 4)
    if kind == "float16":
        return builder.fpext(load(builder, place, ir.HalfType(), 2), F32)
    word = builder.zext(load(builder, place, ir.IntType(16), 2), I32)
    return builder.bitcast(builder.shl(word, I32(16)), F32)


def _narrow(builder: Any, floats: Any, kind: Number) -> Any:
    """float32 → `kind`, to nearest, ties to even."""
    if kind == "float32":
        return floats
    if kind == "float16":
        return builder.fptrunc(floats, _HALVES)
    bits = builder.bitcast(floats, INTS)

    def every(number: int) -> Any:
        return ir.Constant(INTS, [number] * 16)

    odd = builder.and_(builder.lshr(bits, every(16)), every(1))
    rounded = builder.lshr(builder.add(bits, builder.add(odd, every(0x7FFF))), every(16))
    # What is no number stays none: rounding up could carry it over into another.
    none = builder.fcmp_unordered("uno", floats, floats)
    return builder.trunc(builder.select(none, every(0x7FC0), rounded), WORDS)


def _fma(builder: Any) -> Any:
    return function(builder, "llvm.fma.v16f32", FLOATS, [FLOATS] * 3)


def _accumulate(builder: Any, sums: Any, inputs: Any, weights: Any) -> None:
    builder.store(builder.call(_fma(builder), [inputs, weights, builder.load(sums)]), sums)
