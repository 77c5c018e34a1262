"""Which rows of a batch belong to which adapter slot: runs of equal slots, found once per step.

Knows nothing of weights. A row without an adapter belongs to no segment at all, so no arithmetic can reach it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class Segment(NamedTuple):
    """Rows [start, end) of the batch, all answered by the adapter in `slot`."""

    start: int
    end: int
    slot: int


def find_segments(row_adapter_ids: Sequence[int], slot_adapter_ids: Sequence[int | None]) -> list[Segment]:
    """Split a batch into runs of one adapter each; rows with id 0 (the base model) are in none.

    `row_adapter_ids`: one adapter id per token row, 0 for the base. `slot_adapter_ids`: the adapter id in each slot.
    Raises KeyError when a row names an adapter that sits in no slot: serving other weights instead is never right.
    """
    ids = np.asarray(row_adapter_ids, dtype=np.int64)
    if ids.size == 0:
        return []
    slot_of = {adapter: slot for slot, adapter in enumerate(slot_adapter_ids) if adapter is not None}
    starts = np.concatenate(([0], np.flatnonzero(np.diff(ids)) + 1))
    ends = np.concatenate((starts[1:], [ids.size]))
    return [
        Segment(int(start), int(end), slot_of[int(ids[start])])
        for start, end in zip(starts, ends, strict=True)
        if ids[start] > 0
    ]


def divide(segments: np.ndarray[Any, Any], threads: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Divide (n, 3) start, end, slot among threads, rows as evenly as they go; a long segment is cut.

    Returns the segments, cut, and (groups + 1,) where each group begins and the last ends: no more groups than threads
    or rows, and none without a row.
    """
    rows = int((segments[:, 1] - segments[:, 0]).sum())
    groups = min(threads, rows)
    if groups <= 1:
        return segments, np.array([0, len(segments)] if rows else [0], dtype=np.int64)
    cut: list[tuple[int, int, int]] = []
    bounds = [0]
    passed = 0
    for start, end, slot in segments.tolist():
        while start < end:
            room = rows * len(bounds) // groups - passed  # until this group has its share
            stop = min(end, start + room)
            cut.append((start, stop, slot))
            passed += stop - start
            start = stop
            if passed == rows * len(bounds) // groups:
                bounds.append(len(cut))
    return np.array(cut, dtype=np.int64), np.array(bounds, dtype=np.int64)
