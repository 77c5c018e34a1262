"""The two inner loops of a LoRA delta in AVX512-BF16, written as LLVM code that numba puts into a compiled function.

Their instruction, vdpbf16ps, multiplies 32 pairs of bf16 and adds each two neighbours into one of 16 float32 sums: four
times what widening to float32 reaches on the same cores. No compiler finds it by itself. Addresses and steps in bytes;
nothing is checked here. Import late, see `fused`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic


class _BFloat(ir.Type):  # type: ignore[misc]  # llvmlite ships no types, and no bfloat
    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


_I16, _I32, _I64, _F32, _BF16 = ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType(), _BFloat()
_16_WORDS, _16_INTS = ir.VectorType(_I16, 16), ir.VectorType(_I32, 16)
_16_FLOATS, _16_BF16, _32_BF16 = ir.VectorType(_F32, 16), ir.VectorType(_BF16, 16), ir.VectorType(_BF16, 32)
_BYTES = _I16.as_pointer()
_LINE = 64  # bytes of a vector, and of a cache line


def hidden_tile(rows: int, chains: int) -> Callable[..., None]:
    """hidden[i, 0:16] = Σk x[i, k] · a[k, 0:16] for `rows` rows, rounded to bf16.

    The function that is returned takes (x, x step, a, ahead, pairs, hidden, hidden step). `pairs`: half of the inputs.
    `ahead`: what the next call will want of a is fetched from there meanwhile, for single rows. `chains`: independent
    sums per row, so that few rows keep the processor busy too.
    """

    @intrinsic
    def tile(context: Any, x: Any, x_step: Any, a: Any, ahead: Any, pairs: Any, hidden: Any, hidden_step: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            x, x_step, a, ahead, pairs, hidden, hidden_step = args
            sums = [[_zeros(builder) for _ in range(chains)] for _ in range(rows)]
            row_starts = [_at(builder, x, i, x_step) for i in range(rows)]

            def step(k: Any, chain: int) -> None:
                line = builder.mul(k, _I64(_LINE))
                weights = _load(builder, builder.add(a, line), _32_BF16, _LINE)
                if rows == 1:
                    _fetch(builder, builder.add(ahead, line))
                for row, start in enumerate(row_starts):
                    inputs = _pair_everywhere(builder, _at(builder, start, k, _I64(4)))
                    _accumulate(builder, sums[row][chain], inputs, weights)

            whole = builder.udiv(pairs, _I64(chains))
            with cgutils.for_range(builder, whole) as loop:
                for chain in range(chains):
                    step(builder.add(builder.mul(loop.index, _I64(chains)), _I64(chain)), chain)
            if chains > 1:
                first = builder.mul(whole, _I64(chains))
                with cgutils.for_range_slice(builder, first, pairs, _I64(1), _I64) as (k, _):
                    step(k, 0)
            for row in range(rows):
                total = builder.load(sums[row][0])
                for other in sums[row][1:]:
                    total = builder.fadd(total, builder.load(other))
                _store(builder, _rounded(builder, total), _at(builder, hidden, row, hidden_step), 2)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 7), codegen

    return tile  # type: ignore[no-any-return]


def output_tile(rows: int, vectors: int) -> Callable[..., None]:
    """y[i, 0:16·vectors] += Σr hidden[i, r] · b[r, 0:16·vectors] for `rows` rows, rounded to bf16 once.

    Takes (hidden, hidden step, b, b step, pairs, y, y step, ahead). `pairs`: half of the rank. `b step`: from 16
    outputs to the next 16. `ahead` as above.
    """

    @intrinsic
    def tile(
        context: Any, hidden: Any, hidden_step: Any, b: Any, b_step: Any, pairs: Any, y: Any, y_step: Any, ahead: Any
    ) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            hidden, hidden_step, b, b_step, pairs, y, y_step, ahead = args
            sums = [[_zeros(builder) for _ in range(vectors)] for _ in range(rows)]
            row_starts = [_at(builder, hidden, i, hidden_step) for i in range(rows)]
            with cgutils.for_range(builder, pairs) as loop:
                line = builder.mul(loop.index, _I64(_LINE))
                places = [builder.add(line, builder.mul(b_step, _I64(v))) for v in range(vectors)]
                weights = [_load(builder, builder.add(b, place), _32_BF16, _LINE) for place in places]
                if rows == 1:
                    for place in places:
                        _fetch(builder, builder.add(ahead, place))
                for row, start in enumerate(row_starts):
                    inputs = _pair_everywhere(builder, _at(builder, start, loop.index, _I64(4)))
                    for vector in range(vectors):
                        _accumulate(builder, sums[row][vector], inputs, weights[vector])
            for row in range(rows):
                for vector in range(vectors):
                    place = builder.add(_at(builder, y, row, y_step), _I64(32 * vector))
                    old = builder.zext(_load(builder, place, _16_WORDS, 2), _16_INTS)
                    wide = builder.bitcast(builder.shl(old, ir.Constant(_16_INTS, [16] * 16)), _16_FLOATS)
                    new = builder.fadd(wide, builder.load(sums[row][vector]))
                    _store(builder, _rounded(builder, new), place, 2)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 8), codegen

    return tile  # type: ignore[no-any-return]


def _zeros(builder: Any) -> Any:
    return cgutils.alloca_once_value(builder, ir.Constant(_16_FLOATS, [0.0] * 16))


def _at(builder: Any, start: Any, index: Any, step: Any) -> Any:
    return builder.add(start, builder.mul(step, _I64(index) if isinstance(index, int) else index))


def _load(builder: Any, address: Any, kind: Any, align: int) -> Any:
    value = builder.load(builder.inttoptr(address, kind.as_pointer()))
    value.align = align
    return value


def _store(builder: Any, value: Any, address: Any, align: int) -> None:
    builder.store(value, builder.inttoptr(address, value.type.as_pointer())).align = align


def _pair_everywhere(builder: Any, address: Any) -> Any:
    """Two neighbouring bf16, sixteen times."""
    undefined = ir.Constant(_16_INTS, ir.Undefined)
    one = builder.insert_element(undefined, _load(builder, address, _I32, 2), _I32(0))
    return builder.bitcast(builder.shuffle_vector(one, undefined, ir.Constant(_16_INTS, [0] * 16)), _32_BF16)


def _accumulate(builder: Any, sums: Any, inputs: Any, weights: Any) -> None:
    kinds = [_16_FLOATS, _32_BF16, _32_BF16]
    dot = _function(builder, "llvm.x86.avx512bf16.dpbf16ps.512", _16_FLOATS, kinds)
    builder.store(builder.call(dot, [builder.load(sums), inputs, weights]), sums)


def _rounded(builder: Any, floats: Any) -> Any:
    narrow = _function(builder, "llvm.x86.avx512bf16.cvtneps2bf16.512", _16_BF16, [_16_FLOATS])
    return builder.call(narrow, [floats])


def _fetch(builder: Any, address: Any) -> None:
    """Into the second-level cache; an address where there is nothing does no harm."""
    fetch = _function(builder, "llvm.prefetch.p0", ir.VoidType(), [_BYTES, _I32, _I32, _I32])
    builder.call(fetch, [builder.inttoptr(address, _BYTES), _I32(0), _I32(2), _I32(1)])


def _function(builder: Any, name: str, result: Any, arguments: Any) -> Any:
    known = builder.module.globals.get(name)
    return known or ir.Function(builder.module, ir.FunctionType(result, arguments), name)
