"""From a choice to a running kernel: compiles the way that was chosen and puts it behind the operator.

Called once all of a model's layers are known. Imports what it compiles late, see `blocks`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from loradock_adapters.processor import Processor

from . import operator
from .choice import Way
from .slots import LayerSlots

if TYPE_CHECKING:
    from .punica import SegmentedPunica

HIGHEST_RANK = 512  # that vLLM knows


def connect(way: Way, dtype: torch.dtype, layers: Sequence[tuple[LayerSlots, SegmentedPunica]]) -> None:
    """Let the operator add by `way`. `layers`: in the order of their numbers, each with its wrapper."""
    if way == "gemm":
        operator.use_python()
        return
    from .blocks import scratch_bytes
    from .native import Step, make_kernel, register

    add_segments, hidden_bytes = compile_way(way, dtype)
    slices = max((len(layer.widths) for layer, _ in layers), default=1)
    room = scratch_bytes(slices * HIGHEST_RANK, hidden_bytes)
    for _, wrapper in layers:
        if wrapper.step is None:
            wrapper.step = Step(room, threads=torch.get_num_threads())
    pairs = [(layer, wrapper.step) for layer, wrapper in layers if wrapper.step is not None]
    register(operator.NAME, make_kernel(pairs, add_segments, dtype.itemsize))


def compile_way(way: Way, dtype: torch.dtype) -> tuple[Callable[..., Any], int]:
    """`add_segments` of a compiled way (blocks.SEGMENTS), and the bytes of a number between its two products."""
    if way == "paired":
        from . import paired

        return paired.add_segments, paired.HIDDEN_BYTES
    from . import wide

    number: Any = str(dtype).removeprefix("torch.")
    long_vectors = wide.has_long_vectors(Processor.here())
    return wide.make_add_segments(number, long_vectors=long_vectors), wide.HIDDEN_BYTES
