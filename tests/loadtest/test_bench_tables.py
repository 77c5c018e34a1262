"""The engine bench's tables: which machine, dtype and kernel way, and one table for each kind of processor."""

from __future__ import annotations

from typing import Any

import pytest

from loadtest.bench import tables

REPORT: dict[str, Any] = {
    "when": "2026-12-01 12:00:00",
    "machine": {"processor": "A processor (avx2)", "level": "avx2", "cores": 2, "python": "3.11.7"},
    "engine": {"dtype": "float32", "kernel": "wide: float32 arithmetic in AVX2 on A processor"},
    "ours": [
        {"name": "decode", "ratio": 0.94, "goal": 0.9, "higher": True, "detail": {"tokens/s": 61.2}},
        {"name": "prefill", "ratio": 0.91, "goal": 0.95, "higher": True, "detail": {}},
    ],
    "stock": [{"name": "decode", "ratio": 0.123, "goal": None, "higher": True, "detail": {}}],
}
PAGE = "Before.\n\n<!-- bench-engine avx512-bf16 -->\nold\n<!-- end of bench-engine avx512-bf16 -->\n\nAfter.\n"


def test_a_table_says_which_processor_dtype_and_kernel_way_and_has_stock_beside() -> None:
    lines = tables.markdown(REPORT).splitlines()
    assert lines[0] == (
        "2 cores of A processor (avx2), Python 3.11.7, 2026-12-01; "
        "dtype float32, LoRA by wide: float32 arithmetic in AVX2 on A processor."
    )
    assert lines[-2:] == [
        "| decode | 0.123 | ≥ 0.9 | 0.94 (tokens/s 61.2) |",
        "| prefill | – | ≥ 0.95 | **0.91** |",
    ]


def test_each_kind_of_processor_keeps_its_own_table() -> None:
    page = tables.put_into(PAGE, "avx2", "first")
    page = tables.put_into(page, "avx512-bf16", "new")
    page = tables.put_into(page, "avx2", "second")
    assert page.startswith("Before.\n\n<!-- bench-engine avx512-bf16 -->\n\nnew\n\n<!-- end")
    assert page.endswith("<!-- bench-engine avx2 -->\n\nsecond\n\n<!-- end of bench-engine avx2 -->\n\nAfter.\n")
    assert "old" not in page
    assert "first" not in page


def test_a_page_without_marks_is_left_alone() -> None:
    with pytest.raises(ValueError, match="has no mark"):
        tables.put_into("a page", "avx2", "table")
