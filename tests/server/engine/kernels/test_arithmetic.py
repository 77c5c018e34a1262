"""Both ways to add deltas against the formula written out one row at a time, and base rows bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("numba")

from loradock_adapters.processor import Processor  # noqa: E402
from loradock_server.engine.kernels import fused, gemm  # noqa: E402
from loradock_server.engine.kernels.choice import fits_paired  # noqa: E402
from loradock_server.engine.kernels.segments import find_segments  # noqa: E402
from loradock_server.engine.kernels.slots import LayerSlots, pack  # noqa: E402

FEATURES, WIDTHS = 48, (32, 16, 16)
IDS: list[int | None] = [11, 12, 13, None]
RANKS = [(8, 8, 8), (3, 0, 5), (1, 2, 0)]  # by slot and slice; 0: the adapter leaves this slice alone

WITH_BF16 = Processor(
    "one with it",
    frozenset({"avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx512_bf16"}),
)

Weights = tuple[list[Any], list[Any]]


def make_layer(dtype: Any, in_pairs: bool = False) -> tuple[LayerSlots, list[Weights]]:
    torch.manual_seed(0)
    layer, plain = LayerSlots(len(IDS), FEATURES, WIDTHS), []
    for slot, ranks in enumerate(RANKS):
        a = [torch.randn(r, FEATURES).to(dtype) if r else None for r in ranks]
        b = [torch.randn(w, r).to(dtype) if r else None for r, w in zip(ranks, WIDTHS, strict=True)]
        layer.put(slot, pack(a, b, paired=in_pairs))
        plain.append((a, b))
    return layer, plain


def by_the_formula(x: Any, y: Any, rows: list[int], plain: list[Weights]) -> Any:
    expected = y.double().clone()
    for row, adapter in enumerate(rows):
        if adapter:
            a, b = plain[IDS.index(adapter)]
            offset = 0
            for index, width in enumerate(WIDTHS):
                if a[index] is not None:
                    delta = b[index].double() @ (a[index].double() @ x[row].double())
                    expected[row, offset : offset + width] += delta
                offset += width
    return expected


def add_fused(y: Any, x: Any, layer: LayerSlots, rows: list[int]) -> None:
    pairs = [(row, s.slot) for s in find_segments(rows, IDS) for row in range(s.start, s.end)]
    fused.add_rows(
        x.data_ptr(),
        x.stride(0),
        y.data_ptr(),
        y.stride(0),
        FEATURES,
        np.array(pairs, dtype=np.int64).reshape(-1, 2),
        layer.table,
        layer.widths,
        np.empty(FEATURES, dtype=np.float32),
        np.empty(64, dtype=np.float32),
        np.empty(max(WIDTHS), dtype=np.float32),
    )


def add_gemm(y: Any, x: Any, layer: LayerSlots, rows: list[int]) -> None:
    gemm.add_segments(y, x, layer, find_segments(rows, IDS))


def add_paired(y: Any, x: Any, layer: LayerSlots, rows: list[int]) -> None:
    if not fits_paired([layer], torch.bfloat16, Processor.here()):
        pytest.skip("this processor has no AVX512-BF16")
    from loradock_server.engine.kernels import paired  # compiles for it

    scratch = np.empty(paired.BLOCK_ROWS * 64, dtype=np.uint16)
    paired.add_segments(
        x.data_ptr(),
        x.stride(0) * 2,
        y.data_ptr(),
        y.stride(0) * 2,
        FEATURES,
        np.array(find_segments(rows, IDS), dtype=np.int64).reshape(-1, 3),
        layer.table,
        layer.widths,
        scratch.ctypes.data,
    )


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
    ("add", "dtype"),
    [
        (add_gemm, torch.float32),
        (add_gemm, torch.bfloat16),
        (add_fused, torch.bfloat16),
        (add_paired, torch.bfloat16),
    ],
)
def test_deltas_equal_the_formula_and_base_rows_keep_every_bit(rows: list[int], add: Any, dtype: Any) -> None:
    layer, plain = make_layer(dtype, in_pairs=add is add_paired)
    x, y = torch.randn(len(rows), FEATURES).to(dtype), torch.randn(len(rows), sum(WIDTHS)).to(dtype)
    before, expected = y.clone(), by_the_formula(x, y, rows, plain)
    add(y, x, layer, rows)
    error = (y.double() - expected).abs().max().item()
    # A sum of a few hundred products near 1: bf16 keeps 8 bits of the result (and of the product in between, by gemm).
    assert error <= (1e-4 if dtype == torch.float32 else 0.02 * expected.abs().max().item())
    base_rows = [row for row, adapter in enumerate(rows) if not adapter]
    assert torch.equal(y[base_rows], before[base_rows])


def test_the_fused_kernel_is_as_exact_as_bf16_allows() -> None:
    layer, plain = make_layer(torch.bfloat16)
    rows = [11, 12, 13, 11]
    x, y = torch.randn(4, FEATURES).bfloat16(), torch.randn(4, sum(WIDTHS)).bfloat16()
    expected = by_the_formula(x, y, rows, plain)
    add_fused(y, x, layer, rows)
    # One rounding of the result: half a unit in the last of 8 bits.
    assert torch.all((y.double() - expected).abs() <= expected.abs() * 2**-8 + 1e-5)


def test_weights_in_pairs_round_once_more_than_the_fused_kernel() -> None:
    layer, plain = make_layer(torch.bfloat16, in_pairs=True)
    rows = [11, 12, 13, 11]
    x, y = torch.randn(4, FEATURES).bfloat16(), torch.zeros(4, sum(WIDTHS)).bfloat16()
    expected = by_the_formula(x, y, rows, plain)
    add_paired(y, x, layer, rows)
    # The product in between is rounded to 8 bits too; the formula's terms are up to 2.5 times the standard deviation.
    ranks_norm = 8 * expected.std().item()
    assert torch.all((y.double() - expected).abs() <= expected.abs() * 2**-8 + ranks_norm * 2**-8)


def test_a_processor_without_the_instruction_and_layers_that_do_not_divide_are_told() -> None:
    layer, _ = make_layer(torch.bfloat16)
    assert fits_paired([layer], torch.bfloat16, WITH_BF16)
    assert not fits_paired([layer], torch.float32, WITH_BF16)
    assert not fits_paired([LayerSlots(1, 7, [16])], torch.bfloat16, WITH_BF16)
    assert not fits_paired([LayerSlots(1, 8, [16, 24])], torch.bfloat16, WITH_BF16)
    for feature in WITH_BF16.features:
        less = Processor("one without it", WITH_BF16.features - {feature})
        assert not fits_paired([layer], torch.bfloat16, less)


@pytest.mark.parametrize("add", [add_fused, add_paired])
def test_rows_that_lie_apart_in_memory_are_found(add: Any) -> None:
    layer, plain = make_layer(torch.bfloat16, in_pairs=add is add_paired)
    x = torch.randn(3, FEATURES + 10).bfloat16()[:, :FEATURES]
    y = torch.randn(3, sum(WIDTHS) + 6).bfloat16()[:, : sum(WIDTHS)]
    expected = by_the_formula(x, y, [11, 0, 12], plain)
    add(y, x, layer, [11, 0, 12])
    assert torch.all((y.double() - expected).abs() <= expected.abs() * 2**-8 + (1e-5 if add is add_fused else 0.1))


@pytest.mark.parametrize("add", [add_gemm, add_fused, add_paired])
def test_a_slot_that_was_left_adds_nothing(add: Any) -> None:
    """vLLM 0.32 gives base rows the index -1, and freed slots keep their weights (vllm issues 48421 and 49656)."""
    layer, _ = make_layer(torch.bfloat16)
    for slot in range(len(IDS)):
        layer.put(slot, None)
    x, y = torch.randn(2, FEATURES).bfloat16(), torch.zeros(2, sum(WIDTHS)).bfloat16()
    add(y, x, layer, [11, 0])
    assert not y.any()
