"""Both ways to add deltas against the formula written out one row at a time, and base rows bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("numba")

from loradock_server.engine.kernels import gemm  # noqa: E402
from loradock_server.engine.kernels.segments import find_segments  # noqa: E402
from loradock_server.engine.kernels.slots import LayerSlots, Layout, pack  # noqa: E402
from tests.server.engine.kernels.ways import needs, run_compiled  # noqa: E402

FEATURES, WIDTHS = 48, (80, 16, 16)
IDS: list[int | None] = [11, 12, 13, None]
RANKS = [(8, 8, 8), (3, 0, 5), (1, 2, 0)]  # by slot and slice; 0: the adapter leaves this slice alone

SCALES = (2.0, 0.3, 1.0)  # by slice; where they are not apart from the weights, these are multiplied with them

Weights = tuple[list[Any], list[Any]]


def make_layer(
    dtype: Any, layout: Layout = "plain", widths: tuple[int, ...] = WIDTHS
) -> tuple[LayerSlots, list[Weights]]:
    """A layer with three adapters in it, and their weights as they are in a file."""
    torch.manual_seed(0)
    layer, plain = LayerSlots(len(IDS), FEATURES, widths), []
    for slot, ranks in enumerate(RANKS):
        a = [torch.randn(r, FEATURES).to(dtype) if r else None for r in ranks]
        b = [torch.randn(w, r).to(dtype) if r else None for r, w in zip(ranks, widths, strict=True)]
        layer.put(slot, pack(a, b, layout=layout, scales=None if layout == "paired" else SCALES))
        plain.append((a, b))
    return layer, plain


def by_the_formula(x: Any, y: Any, rows: list[int], plain: list[Weights], scales: tuple[float, ...] = SCALES) -> Any:
    expected = y.double().clone()
    for row, adapter in enumerate(rows):
        if adapter:
            a, b = plain[IDS.index(adapter)]
            offset = 0
            for index, scale in enumerate(scales):
                width = next(w[index].shape[0] for _, w in plain if w[index] is not None)
                if a[index] is not None:
                    delta = scale * (b[index].double() @ (a[index].double() @ x[row].double()))
                    expected[row, offset : offset + width] += delta
                offset += width
    return expected


Add = Callable[[Any, Any, LayerSlots, list[int]], None]


def add_gemm(y: Any, x: Any, layer: LayerSlots, rows: list[int]) -> None:
    gemm.add_segments(y, x, layer, find_segments(rows, IDS))


def add_paired(y: Any, x: Any, layer: LayerSlots, rows: list[int]) -> None:
    run_compiled("paired", y, x, layer, find_segments(rows, IDS))


def add_wide(y: Any, x: Any, layer: LayerSlots, rows: list[int]) -> None:
    run_compiled("wide", y, x, layer, find_segments(rows, IDS))


LAYOUT: dict[Add, Layout] = {add_gemm: "plain", add_paired: "paired", add_wide: "lines"}
PAIRED = pytest.param(add_paired, torch.bfloat16, torch.bfloat16, marks=needs("avx512-bf16"))


BATCHES = [
    [11, 12, 13],
    [0, 11, 0, 13, 13, 0, 12],
    [12] * 40,
    [11] * 13 + [13] * 150 + [0] + [12] * 64,
    [0, 0],
    [13],
    [0, 0, 11],
]


@pytest.mark.parametrize("rows", BATCHES, ids=str)
@pytest.mark.parametrize(
    ("add", "dtype", "weights"),
    [
        (add_gemm, torch.float32, torch.float32),
        (add_gemm, torch.bfloat16, torch.bfloat16),
        PAIRED,
        *(
            pytest.param(add_wide, dtype, weights, marks=needs("avx2"))
            for dtype in (torch.float32, torch.bfloat16, torch.float16)
            for weights in (torch.float32, torch.bfloat16, torch.float16)
        ),
    ],
)
def test_deltas_equal_the_formula_and_base_rows_keep_every_bit(
    rows: list[int], add: Add, dtype: Any, weights: Any
) -> None:
    layer, plain = make_layer(weights, LAYOUT[add])
    x, y = torch.randn(len(rows), FEATURES).to(dtype), torch.randn(len(rows), sum(WIDTHS)).to(dtype)
    before = y.clone()
    expected = by_the_formula(x, y, rows, plain, (1.0, 1.0, 1.0) if add is add_paired else SCALES)
    add(y, x, layer, rows)
    error = (y.double() - expected).abs()
    # A sum of a few hundred products near 1. By gemm and paired, bf16 keeps 8 bits of the product in between too; wide
    # rounds only what it writes.
    if dtype == torch.float32:
        assert error.max() <= 1e-4
    elif add is add_wide:
        assert torch.all(error <= expected.abs() * (2**-8 if dtype == torch.bfloat16 else 2**-11) + 1e-4)
    else:
        assert error.max() <= 0.02 * expected.abs().max()
    base_rows = [row for row, adapter in enumerate(rows) if not adapter]
    assert torch.equal(y[base_rows], before[base_rows])


@needs("avx2")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("widths", [(7, 16, 40), (64, 1, 15), (3, 2, 1)], ids=str)
def test_columns_that_fill_no_vector_are_added_too_and_nothing_beside_them(widths: tuple[int, ...], dtype: Any) -> None:
    layer, plain = make_layer(torch.bfloat16, "lines", widths)
    rows = [11, 0, 12, 12, 12, 12, 12, 13]
    x = torch.randn(len(rows), FEATURES).to(dtype)
    whole = torch.randn(len(rows), sum(widths) + 20).to(dtype)
    before, y = whole.clone(), whole[:, : sum(widths)]
    expected = by_the_formula(x, y, rows, plain)
    add_wide(y, x, layer, rows)
    assert torch.all((y.double() - expected).abs() <= expected.abs() * (0 if dtype == torch.float32 else 2**-8) + 1e-4)
    assert torch.equal(whole[:, sum(widths) :], before[:, sum(widths) :])
    assert torch.equal(whole[1], before[1])


@needs("avx2")
def test_what_is_no_number_stays_none_in_every_dtype() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        layer, _ = make_layer(torch.bfloat16, "lines")
        x, y = torch.full((1, FEATURES), torch.nan).to(dtype), torch.zeros(1, sum(WIDTHS)).to(dtype)
        add_wide(y, x, layer, [11])
        assert y[0, : WIDTHS[0]].isnan().all()


@needs("avx512-bf16")
def test_weights_in_pairs_round_once_more() -> None:
    layer, plain = make_layer(torch.bfloat16, "paired")
    rows = [11, 12, 13, 11]
    x, y = torch.randn(4, FEATURES).bfloat16(), torch.zeros(4, sum(WIDTHS)).bfloat16()
    expected = by_the_formula(x, y, rows, plain, (1.0, 1.0, 1.0))
    add_paired(y, x, layer, rows)
    # The product in between is rounded to 8 bits too; the formula's terms are up to 2.5 times the standard deviation.
    ranks_norm = 8 * expected.std().item()
    assert torch.all((y.double() - expected).abs() <= expected.abs() * 2**-8 + ranks_norm * 2**-8)


COMPILED = [
    pytest.param(add_paired, marks=needs("avx512-bf16")),
    pytest.param(add_wide, marks=needs("avx2")),
]


@pytest.mark.parametrize("add", COMPILED)
def test_rows_that_lie_apart_in_memory_are_found(add: Add) -> None:
    layer, plain = make_layer(torch.bfloat16, LAYOUT[add])
    x = torch.randn(3, FEATURES + 10).bfloat16()[:, :FEATURES]
    y = torch.randn(3, sum(WIDTHS) + 6).bfloat16()[:, : sum(WIDTHS)]
    expected = by_the_formula(x, y, [11, 0, 12], plain, (1.0, 1.0, 1.0) if add is add_paired else SCALES)
    add(y, x, layer, [11, 0, 12])
    assert torch.all((y.double() - expected).abs() <= expected.abs() * 2**-8 + (1e-4 if add is add_wide else 0.1))


@pytest.mark.parametrize("add", [add_gemm, *COMPILED])
def test_a_slot_that_was_left_adds_nothing(add: Add) -> None:
    """vLLM 0.32 gives base rows the index -1, and freed slots keep their weights (vllm issues 48421 and 49656)."""
    layer, _ = make_layer(torch.bfloat16, LAYOUT[add])
    for slot in range(len(IDS)):
        layer.put(slot, None)
    x, y = torch.randn(2, FEATURES).bfloat16(), torch.zeros(2, sum(WIDTHS)).bfloat16()
    add(y, x, layer, [11, 0])
    assert not y.any()


@needs("avx2")
def test_weights_keep_their_bytes_where_that_is_exact() -> None:
    """Decoding with many adapters costs mostly the reading of their weights."""
    half, full = make_layer(torch.bfloat16, "lines")[0], make_layer(torch.float32, "lines")[0]
    for narrow, wide in zip(half.packed, full.packed, strict=True):
        assert (narrow is None) == (wide is None)
        assert narrow is None or wide is None or narrow.size_bytes * 2 == wide.size_bytes
