"""Runs a compiled way on tensors, as the operator would, where this machine's processor can."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from loradock_adapters.processor import Processor
from loradock_server.engine.kernels.choice import Way
from loradock_server.engine.kernels.segments import Segment
from loradock_server.engine.kernels.slots import LayerSlots

HERE = Processor.here()
_LEVELS = ("none", "avx2", "avx512", "avx512-bf16")
RANKS = 64  # the highest sum of a layer's ranks in these tests


def needs(level: str) -> pytest.MarkDecorator:
    """Skips a test on a processor that has less."""
    return pytest.mark.skipif(_LEVELS.index(HERE.level) < _LEVELS.index(level), reason=f"needs {level}: {HERE.name}")


def compiled(way: Way, dtype: Any) -> tuple[Any, int]:
    """`add_segments` of a way, and the bytes of its scratch. Compiles."""
    from loradock_server.engine.kernels.blocks import scratch_bytes
    from loradock_server.engine.kernels.compiled import compile_way

    add_segments, hidden_bytes = compile_way(way, dtype)
    return add_segments, scratch_bytes(RANKS, hidden_bytes)


def run_compiled(way: Way, y: Any, x: Any, layer: LayerSlots, segments: Sequence[Segment]) -> None:
    """Add the segments' deltas to `y` in place."""
    add_segments, room = compiled(way, y.dtype)
    scratch = np.zeros(room, dtype=np.uint8)
    add_segments(
        x.data_ptr(),
        x.stride(0) * x.itemsize,
        y.data_ptr(),
        y.stride(0) * y.itemsize,
        layer.in_features,
        np.array(segments, dtype=np.int64).reshape(-1, 3),
        layer.table,
        layer.widths,
        scratch.ctypes.data,
    )
