"""Segments: which rows an adapter may touch, and above all which it may not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loradock_server.engine.kernels.segments import Segment, divide, find_segments

SLOTS = [30, None, 10, 20]


def test_runs_of_one_adapter_become_one_segment_each() -> None:
    assert find_segments([10, 10, 20, 10], SLOTS) == [Segment(0, 2, 2), Segment(2, 3, 3), Segment(3, 4, 2)]


def test_base_rows_are_in_no_segment_at_all() -> None:
    assert find_segments([0, 30, 0, 0], SLOTS) == [Segment(1, 2, 0)]
    assert find_segments([0, 0], SLOTS) == []
    assert find_segments([], SLOTS) == []


def test_a_row_of_an_adapter_that_sits_in_no_slot_is_an_error_and_not_somebody_elses_weights() -> None:
    with pytest.raises(KeyError):
        find_segments([99], SLOTS)


@given(st.lists(st.sampled_from([0, 10, 20, 30])))
def test_every_adapter_row_is_covered_once_by_its_own_slot(rows: list[int]) -> None:
    covered = [0] * len(rows)
    for start, end, slot in find_segments(rows, SLOTS):
        for row in range(start, end):
            covered[row] += 1
            assert SLOTS[slot] == rows[row]
    assert covered == [1 if row else 0 for row in rows]


@given(st.lists(st.sampled_from([0, 10, 20, 30]), max_size=40), st.integers(1, 9))
def test_threads_share_every_row_once_and_evenly(rows: list[int], threads: int) -> None:
    segments = np.array(find_segments(rows, SLOTS), dtype=np.int64).reshape(-1, 3)
    cut, bounds = divide(segments, threads)
    groups = len(bounds) - 1
    busy = sum(1 for row in rows if row)
    assert groups == min(threads, busy)
    sizes = []
    covered: dict[int, int] = {}
    for group in range(groups):
        mine = cut[bounds[group] : bounds[group + 1]]
        sizes.append(int((mine[:, 1] - mine[:, 0]).sum()))
        for start, end, slot in mine.tolist():
            for row in range(start, end):
                assert row not in covered
                covered[row] = slot
    assert {row: SLOTS[slot] for row, slot in covered.items()} == {i: row for i, row in enumerate(rows) if row}
    assert not sizes or max(sizes) - min(sizes) <= 1
