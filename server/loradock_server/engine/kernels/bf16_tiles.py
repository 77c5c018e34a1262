"""The two inner loops of a LoRA delta in AVX512-BF16, written as LLVM code that numba puts into a compiled function.

Their instruction, vdpbf16ps, multiplies 32 pairs of bf16 and adds each two neighbours into one of 16 float32 sums: four
times what widening to float32 reaches on the same cores. No compiler finds it by itself. Addresses and steps in bytes;
nothing is checked here. Import late, see `blocks`, and only where `choice` says so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .vectors import FLOATS, I32, I64, INTS, WORDS, address, everywhere, fetch, function, load, store, sum_of, zeros


class _BFloat(ir.Type):  # type: ignore[misc]  # llvmlite ships no types, and no bfloat
    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


_BF16 = _BFloat()
_16_BF16, _32_BF16 = ir.VectorType(_BF16, 16), ir.VectorType(_BF16, 32)
_LINE = 64  # bytes of a vector, and of a cache line


def hidden_tile(rows: int, chains: int) -> Callable[..., None]:
    """hidden[i, 0:16] = Σk x[i, k] · a[k, 0:16] for `rows` rows, rounded to bf16.

    The function that is returned takes (x, x step, a, ahead, lines, hidden, hidden step). `lines`: half of the inputs.
    `ahead`: what the next call will want of a is fetched from there meanwhile, for single rows. `chains`: independent
    sums per row, so that few rows keep the processor busy too.
    """

    @intrinsic
    def tile(context: Any, x: Any, x_step: Any, a: Any, ahead: Any, lines: Any, hidden: Any, hidden_step: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            x, x_step, a, ahead, lines, hidden, hidden_step = args
            sums = [[zeros(builder) for _ in range(chains)] for _ in range(rows)]
            row_starts = [address(builder, x, i, x_step) for i in range(rows)]

            def step(k: Any, chain: int) -> None:
                line = builder.mul(k, I64(_LINE))
                weights = load(builder, builder.add(a, line), _32_BF16, _LINE)
                if rows == 1:
                    fetch(builder, builder.add(ahead, line))
                for row, start in enumerate(row_starts):
                    inputs = _pair_everywhere(builder, address(builder, start, k, I64(4)))
                    _accumulate(builder, sums[row][chain], inputs, weights)

            whole = builder.udiv(lines, I64(chains))
            with cgutils.for_range(builder, whole) as loop:
                for chain in range(chains):
                    step(builder.add(builder.mul(loop.index, I64(chains)), I64(chain)), chain)
            if chains > 1:
                first = builder.mul(whole, I64(chains))
                with cgutils.for_range_slice(builder, first, lines, I64(1), I64) as (k, _):
                    step(k, 0)
            for row in range(rows):
                total = _rounded(builder, sum_of(builder, sums[row]))
                store(builder, total, address(builder, hidden, row, hidden_step), 2)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 7), codegen

    return tile  # type: ignore[no-any-return]


def output_tile(rows: int, vectors: int) -> Callable[..., None]:
    """y[i, 0:16·vectors] += Σr hidden[i, r] · b[r, 0:16·vectors] for `rows` rows, rounded to bf16 once.

    Takes (hidden, hidden step, b, b step, lines, y, y step, ahead, scale). `lines`: half of the rank. `b step`: from 16
    outputs to the next 16. `ahead` as above. `scale` is not looked at: it is in b.
    """

    @intrinsic
    def tile(
        context: Any, hidden: Any, hidden_step: Any, b: Any, b_step: Any, lines: Any, y: Any, y_step: Any, ahead: Any,
        scale: Any,
    ) -> Any:  # fmt: skip
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            hidden, hidden_step, b, b_step, lines, y, y_step, ahead, _ = args
            sums = [[zeros(builder) for _ in range(vectors)] for _ in range(rows)]
            row_starts = [address(builder, hidden, i, hidden_step) for i in range(rows)]
            with cgutils.for_range(builder, lines) as loop:
                line = builder.mul(loop.index, I64(_LINE))
                places = [builder.add(line, builder.mul(b_step, I64(v))) for v in range(vectors)]
                weights = [load(builder, builder.add(b, place), _32_BF16, _LINE) for place in places]
                if rows == 1:
                    for place in places:
                        fetch(builder, builder.add(ahead, place))
                for row, start in enumerate(row_starts):
                    inputs = _pair_everywhere(builder, address(builder, start, loop.index, I64(4)))
                    for vector in range(vectors):
                        _accumulate(builder, sums[row][vector], inputs, weights[vector])
            for row in range(rows):
                for vector in range(vectors):
                    place = builder.add(address(builder, y, row, y_step), I64(32 * vector))
                    old = builder.zext(load(builder, place, WORDS, 2), INTS)
                    wide = builder.bitcast(builder.shl(old, ir.Constant(INTS, [16] * 16)), FLOATS)
                    new = builder.fadd(wide, builder.load(sums[row][vector]))
                    store(builder, _rounded(builder, new), place, 2)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 9), codegen

    return tile  # type: ignore[no-any-return]


def _pair_everywhere(builder: Any, place: Any) -> Any:
    """Two neighbouring bf16, sixteen times."""
    return builder.bitcast(everywhere(builder, load(builder, place, I32, 2), INTS), _32_BF16)


def _accumulate(builder: Any, sums: Any, inputs: Any, weights: Any) -> None:
    kinds = [FLOATS, _32_BF16, _32_BF16]
    dot = function(builder, "llvm.x86.avx512bf16.dpbf16ps.512", FLOATS, kinds)
    builder.store(builder.call(dot, [builder.load(sums), inputs, weights]), sums)


def _rounded(builder: Any, floats: Any) -> Any:
    narrow = function(builder, "llvm.x86.avx512bf16.cvtneps2bf16.512", _16_BF16, [FLOATS])
    return builder.call(narrow, [floats])
