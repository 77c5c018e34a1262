"""What the tiles share: LLVM's types for 16 numbers, and loads, stores and sums of them. Addresses in bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba.core import cgutils

I16, I32, I64, F32 = ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()
WORDS, INTS, FLOATS = ir.VectorType(I16, 16), ir.VectorType(I32, 16), ir.VectorType(F32, 16)
_BYTES = I16.as_pointer()


def zeros(builder: Any) -> Any:
    """A place for 16 sums."""
    return cgutils.alloca_once_value(builder, ir.Constant(FLOATS, [0.0] * 16))


def sum_of(builder: Any, places: Sequence[Any]) -> Any:
    """The sums of some places added up, number by number."""
    total = builder.load(places[0])
    for other in places[1:]:
        total = builder.fadd(total, builder.load(other))
    return total


def address(builder: Any, start: Any, index: Any, step: Any) -> Any:
    return builder.add(start, builder.mul(step, I64(index) if isinstance(index, int) else index))


def load(builder: Any, place: Any, kind: Any, align: int) -> Any:
    value = builder.load(builder.inttoptr(place, kind.as_pointer()))
    value.align = align
    return value


def store(builder: Any, value: Any, place: Any, align: int) -> None:
    builder.store(value, builder.inttoptr(place, value.type.as_pointer())).align = align


def everywhere(builder: Any, one: Any, kind: Any) -> Any:
    """A vector of `kind` with the same number in all 16 places."""
    undefined = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(undefined, one, I32(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(INTS, [0] * 16))


def fetch(builder: Any, place: Any) -> None:
    """Into the second-level cache; an address where there is nothing does no harm."""
    prefetch = function(builder, "llvm.prefetch.p0", ir.VoidType(), [_BYTES, I32, I32, I32])
    builder.call(prefetch, [builder.inttoptr(place, _BYTES), I32(0), I32(2), I32(1)])


def function(builder: Any, name: str, result: Any, arguments: Any) -> Any:
    known = builder.module.globals.get(name)
    return known or ir.Function(builder.module, ir.FunctionType(result, arguments), name)
