"""The segmented arithmetic against the formula written out one row at a time."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from loradock_server.engine.kernels.gemm import add_segments  # noqa: E402
from loradock_server.engine.kernels.segments import find_segments  # noqa: E402

SLOTS, MAX_RANK, WIDE, WIDTHS = 3, 8, 24, (16, 8, 8)
IDS = [11, 12, 13]
RANKS: list[tuple[int, ...]] = [
    (8, 8, 8),
    (3, 0, 5),
    (1, 2, 0),
]  # by slot and slice; 0: the adapter leaves this slice alone


def weights() -> tuple[list[Any], list[Any]]:
    """Stacked A and B as vLLM lays them out, zero beyond each adapter's rank."""
    torch.manual_seed(0)
    a = [torch.randn(SLOTS, 1, MAX_RANK, WIDE) for _ in WIDTHS]
    b = [torch.randn(SLOTS, 1, width, MAX_RANK) for width in WIDTHS]
    for slot, ranks in enumerate(RANKS):
        for index, rank in enumerate(ranks):
            a[index][slot, 0, rank:] = 0
            b[index][slot, 0, :, rank:] = 0
    return a, b


@pytest.mark.parametrize("rows", [[11, 12, 13], [0, 11, 0, 13, 13, 0, 12], [12] * 40, [0, 0]])
@pytest.mark.parametrize("ranks", [RANKS, None])
def test_deltas_equal_the_plain_formula_and_base_rows_keep_every_bit(
    rows: list[int], ranks: list[tuple[int, ...]] | None
) -> None:
    a, b = weights()
    x, y = torch.randn(len(rows), WIDE), torch.randn(len(rows), sum(WIDTHS))
    expected = y.clone()
    for row, adapter in enumerate(rows):
        if adapter:
            slot = IDS.index(adapter)
            delta = [b[i][slot, 0] @ (a[i][slot, 0] @ x[row]) for i in range(len(WIDTHS))]
            expected[row] += torch.cat(delta)
    base_rows = [row for row, adapter in enumerate(rows) if not adapter]
    untouched = y[base_rows].clone()
    add_segments(y, x, a, b, WIDTHS, find_segments(rows, list(IDS)), ranks)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(y[base_rows], untouched)


def test_a_freed_slot_with_stale_weights_never_reaches_a_base_row() -> None:
    """vLLM 0.32 gives base rows the index -1, which is the last slot (vllm issues 48421 and 49656)."""
    a, b = weights()
    x, y = torch.randn(4, WIDE), torch.zeros(4, sum(WIDTHS))
    add_segments(y, x, a, b, WIDTHS, find_segments([0, 11, 0, 0], [11, None, None]), None)
    assert not y[[0, 2, 3]].any()
    assert y[1].any()
