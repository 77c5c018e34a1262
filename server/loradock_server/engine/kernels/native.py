"""A compiled way as the operator's kernel without Python in between: torch calls code that knows layers by number.

A step asks for a delta once per linear layer, 120 times for a model of 30 decoder layers. By Python each asking costs
microseconds, more than one adapter's arithmetic; so the kernel is registered by torch's stable C interface
(torch/csrc/stable/c/shim.h) and reads what a step needs from memory that Python has filled. Rows are divided among the
threads that torch itself computes with (OpenMP's). Import late, see `blocks`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic

from .segments import divide
from .slots import LayerSlots

# What `Step.memory` holds.
_GROUPS, _SEGMENTS, _BOUNDS, _SCRATCH, _SCRATCH_STEP, _REFUSED = range(6)
# What a layer's row holds: addresses of its step, table and widths, and the sizes that make arrays of them.
_STEP, _FEATURES, _TABLE, _SLOTS, _COLUMNS, _WIDTHS, _SLICES = range(7)
_ROW_BYTES = 7 * 8
# What a call leaves for its threads: address of the layer's row, x, its step, y, its step.
_LAYER, _X, _X_STEP, _Y, _Y_STEP = range(5)
_SEGMENT_BYTES = 3 * 8

_kept: list[Any] = []  # kernels and their memory: torch forgets none


class Step:
    """One step's segments where compiled code finds them.

    `scratch_bytes`: what each thread needs (blocks.scratch_bytes). `threads`: how many may share a step's rows.
    """

    def __init__(self, scratch_bytes: int, *, threads: int = 1) -> None:
        line = 64
        size = -(-scratch_bytes // line) * line
        scratch = np.zeros(size * threads + line, dtype=np.uint8)
        self._kept: tuple[Any, ...] = ()
        self._scratch = scratch
        self._threads = threads
        self.memory = np.zeros(6, dtype=np.int64)
        self.memory[_SCRATCH] = -(-scratch.ctypes.data // line) * line
        self.memory[_SCRATCH_STEP] = size

    def begin(self, segments: np.ndarray[Any, Any]) -> None:
        """The coming calls add these (n, 3): start, end, slot.

        Raises RuntimeError when a call since the last was given tensors of a layout that it cannot walk.
        """
        if self.memory[_REFUSED]:
            raise RuntimeError("the last step went without its LoRA deltas: the rows of a tensor were not contiguous")
        segments, bounds = divide(segments, self._threads)
        self._kept = (segments, bounds)
        self.memory[_SEGMENTS], self.memory[_BOUNDS] = segments.ctypes.data, bounds.ctypes.data
        self.memory[_GROUPS] = len(bounds) - 1


@intrinsic
def _at(context: Any, address: Any) -> Any:
    """Whole numbers of 64 bits at an address."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], ir.IntType(64).as_pointer())

    return types.CPointer(types.int64)(types.int64), codegen


def make_kernel(layers: Iterable[tuple[LayerSlots, Step]], add_segments: Callable[..., None], number_bytes: int) -> Any:
    """Compiled code for `register`. Layers are numbered in their order; `add_segments` takes blocks.SEGMENTS."""
    rows = [
        (
            step.memory.ctypes.data,
            layer.in_features,
            layer.table.ctypes.data,
            *layer.table.shape,
            layer.widths.ctypes.data,
            len(layer.widths),
        )
        for layer, step in layers
    ]
    known = np.array(rows, dtype=np.int64).reshape(-1, _ROW_BYTES // 8)
    # What torch tells of a tensor, and a call's arguments; layers are computed one after the other.
    answers, call = np.zeros(3, dtype=np.int64), np.zeros(5, dtype=np.int64)
    first_layer, first_answer, the_call = known.ctypes.data, answers.ctypes.data, call.ctypes.data
    get_data, get_dim, get_sizes, get_strides = (
        _of_torch(f"aoti_torch_get_{what}", ctypes.c_int64, ctypes.c_int64)
        for what in ("data_ptr", "dim", "sizes", "strides")
    )
    delete = _of_torch("aoti_torch_delete_tensor_object", ctypes.c_int64)
    in_parallel = _of_torch(
        "GOMP_parallel", ctypes.c_int64, ctypes.c_int64, ctypes.c_uint32, ctypes.c_uint32, returns=None
    )
    this_thread, all_threads = _of_torch("omp_get_thread_num"), _of_torch("omp_get_num_threads")

    @numba.njit(types.UniTuple(types.int64, 2)(types.int64), error_model="numpy")
    def rows_of(tensor: int) -> tuple[int, int]:
        """Address of a tensor's first row and bytes from one to the next; 0 where its layout has no such thing."""
        answer = _at(first_answer)
        get_data(tensor, first_answer)
        start = answer[0]
        get_dim(tensor, first_answer)
        dims = answer[0]
        get_sizes(tensor, first_answer)
        get_strides(tensor, first_answer + 8)
        sizes, strides = _at(answer[0]), _at(answer[1])
        for batch in range(dims - 2):  # models of transformers have a batch dimension of one
            if sizes[batch] != 1:
                return 0, 0
        if dims < 2 or strides[dims - 1] != 1:
            return 0, 0
        return start, strides[dims - 2] * number_bytes

    @numba.njit(types.void(types.int64), error_model="numpy")
    def add_group(group: int) -> None:
        """One thread's part of a call."""
        given = _at(the_call)
        layer = _at(given[_LAYER])
        step = _at(layer[_STEP])
        bounds = _at(step[_BOUNDS])
        first = bounds[group]
        segments = carray(_at(step[_SEGMENTS] + first * _SEGMENT_BYTES), (bounds[group + 1] - first, 3))
        table = carray(_at(layer[_TABLE]), (layer[_SLOTS], layer[_COLUMNS]))
        widths = carray(_at(layer[_WIDTHS]), (layer[_SLICES],))
        scratch = step[_SCRATCH] + group * step[_SCRATCH_STEP]
        add_segments(given[_X], given[_X_STEP], given[_Y], given[_Y_STEP], layer[_FEATURES],
                     segments, table, widths, scratch)  # fmt: skip

    @numba.cfunc(types.void(types.int64), error_model="numpy")
    def add_groups(groups: int) -> None:
        group = types.int64(this_thread())
        while group < groups:
            add_group(group)
            group += all_threads()

    start_of_groups = add_groups.address

    @numba.cfunc(types.void(types.CPointer(types.int64), types.uint64, types.uint64), error_model="numpy")
    def add_lora(stack: Any, inputs: int, outputs: int) -> None:
        row = first_layer + stack[2] * _ROW_BYTES
        step = _at(_at(row)[_STEP])
        groups = step[_GROUPS]
        if groups > 0:
            y, y_step = rows_of(stack[0])
            x, x_step = rows_of(stack[1])
            if x == 0 or y == 0:
                step[_REFUSED] = 1
            else:
                given = _at(the_call)
                given[_LAYER], given[_X], given[_X_STEP], given[_Y], given[_Y_STEP] = row, x, x_step, y, y_step
                if groups == 1:
                    add_group(0)
                else:
                    in_parallel(start_of_groups, groups, types.uint32(groups), types.uint32(0))
        delete(stack[0])
        delete(stack[1])

    _kept.append((add_lora, add_groups, known, answers, call))
    return add_lora


def register(operator: str, kernel: Any) -> None:
    """Let torch call it for `operator`, `namespace::name` with (Tensor(a!) y, Tensor x, int number) -> (), on CPU.

    Raises RuntimeError when torch does not take it.
    """
    namespace, name = operator.encode().split(b"::")
    library = ctypes.c_void_p()
    init = _of_torch("aoti_torch_library_init_impl", *[ctypes.c_char_p] * 3, ctypes.c_uint32, ctypes.c_void_p)
    impl = _of_torch("aoti_torch_library_impl", ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
    failed = init(namespace, b"CPU", __file__.encode(), 0, ctypes.addressof(library)) or impl(
        library, name, kernel.address
    )
    if failed:
        raise RuntimeError(f"torch {torch.__version__} did not take the kernel of {operator}")


def _of_torch(name: str, *arguments: Any, returns: Any = ctypes.c_int32) -> Any:
    """A function of torch's library, or of the OpenMP that it was loaded with."""
    function = getattr(ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so")), name)
    function.argtypes, function.restype = arguments, returns
    return function
