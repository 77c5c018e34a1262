"""The sums, the table and the thresholds, on hand-made outcomes."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from loadtest.client import Outcome
from loadtest.report import Percentiles, Thresholds, as_json, notes, summarize, table


def good(model: str, ttft: float, *, tokens: int = 10, cached: int | None = None) -> Outcome:
    return Outcome(model, None, 0.0, ttft + 1.0, ttft, 0.02, 40, tokens, cached)


def bad(model: str, error: str) -> Outcome:
    return Outcome(model, error, 0.0, 99.0, 98.0, None, 40, 3)


OUTCOMES = [
    *(good("fast", ttft / 100) for ttft in range(1, 101)),
    *(good("slow", 3.0) for _ in range(3)),
    bad("slow", "http 503: engine_unavailable"),
]
REPORT = summarize(OUTCOMES, 10.0, ("fast", "slow", "never-asked"))


def test_percentiles_interpolate_between_neighbours() -> None:
    found = Percentiles.of([1.0, 2.0])
    assert found is not None
    assert (found.p50, found.p95, found.p99, found.mean) == pytest.approx((1.5, 1.95, 1.99, 1.5))


def test_each_adapter_has_its_own_row_in_the_order_asked() -> None:
    assert [row.name for row in REPORT.adapters] == ["fast", "slow"]


def test_failed_requests_count_as_errors_and_nowhere_else() -> None:
    _, slow = REPORT.adapters
    assert (slow.requests, slow.errors, slow.error_rate) == (4, 1, 0.25)
    assert slow.error_kinds == {"http 503: engine_unavailable": 1}
    assert slow.output_tokens_per_second == 3.0
    assert slow.requests_per_second == pytest.approx(0.3)
    assert slow.ttft_seconds == Percentiles(3.0, 3.0, 3.0, 3.0)


def test_the_total_is_over_all_requests_not_over_rows() -> None:
    assert REPORT.total.requests == 104
    assert REPORT.total.output_tokens_per_second == pytest.approx(103.0)
    assert REPORT.total.ttft_seconds is not None
    assert REPORT.total.ttft_seconds.p99 == pytest.approx(3.0)


def test_cached_tokens_are_a_share_of_prompts_and_unknown_where_not_told() -> None:
    told = summarize([good("a", 1.0, cached=10), good("a", 1.0, cached=10)], 1.0, ("a",))
    assert told.total.cached_share == 0.25
    assert REPORT.total.cached_share is None
    assert "25.0% of prompt tokens came from the prefix cache" in notes(told)


def test_a_starved_adapter_breaks_the_limit_although_the_total_keeps_it() -> None:
    total = REPORT.total.ttft_seconds
    assert total is not None
    assert total.p95 < 2.0
    assert Thresholds(max_ttft_p95_seconds=2.0).broken(REPORT) == [
        "slow: TTFT p95 3.000 s, limit 2.000 s (--max-ttft-p95)"
    ]


def test_the_error_limit_says_how_many_of_how_many() -> None:
    assert Thresholds(max_error_rate=0.2).broken(REPORT) == [
        "slow: 1 of 4 requests failed (25.00%), limit 20.00% (--max-error-rate)"
    ]


def test_a_limit_that_is_met_exactly_is_kept() -> None:
    assert Thresholds(max_ttft_p95_seconds=3.0, max_error_rate=0.25).broken(REPORT) == []


def test_an_adapter_without_any_first_token_breaks_a_time_limit() -> None:
    report = summarize([bad("a", "timeout")], 1.0, ("a",))
    assert "a: no first token at all, limit 5.000 s (--max-ttft-p95)" in Thresholds(5.0).broken(report)


def test_notes_name_each_kind_of_error_and_a_client_that_cannot_keep_up() -> None:
    late = Outcome("a", "timeout", 0.7, 1.0)
    said = notes(summarize([late, late], 1.0, ("a",), cut_short=3))
    assert "2 × timeout" in said
    assert any("0.70 s late" in line for line in said)
    assert any("3 requests under way" in line for line in said)


def test_the_table_shows_milliseconds_for_every_adapter_and_the_total() -> None:
    drawn = io.StringIO()
    Console(file=drawn, width=80).print(table(REPORT))
    lines = drawn.getvalue().splitlines()
    (slow,) = [line.split() for line in lines if line.split()[:1] == ["slow"]]
    assert slow == ["slow", "4", "1", "0.30", "3.0", "3000/3000/3000", "20/20", "4000/4000"]
    assert any(line.split()[:2] == ["total", "104"] for line in lines)


def test_the_json_survives_a_round_trip_with_every_adapter() -> None:
    written = json.loads(json.dumps(as_json(REPORT, {"seed": 1}, ["x"])))
    assert set(written["adapters"]) == {"fast", "slow"}
    assert written["adapters"]["slow"]["error_rate"] == 0.25
    assert written["total"]["ttft_seconds"]["p50"] > 0
    assert (written["options"], written["thresholds_broken"]) == ({"seed": 1}, ["x"])


def test_a_run_without_requests_has_an_empty_report() -> None:
    report = summarize([], 0.0, ("a",))
    assert (report.adapters, report.total.requests, report.total.error_rate) == ((), 0, 0.0)
