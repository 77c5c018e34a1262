"""Sums finished requests up, per adapter and in total; draws the table, writes the JSON, judges thresholds.

Good requests alone count for times and tokens; all count for the error rate. Knows no HTTP and no clock.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich import box
from rich.table import Table

from loadtest.client import Outcome

TOTAL = "total"
SLOW_CLIENT_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Of one kind of time, in seconds; linear interpolation between the two nearest values."""

    p50: float
    p95: float
    p99: float
    mean: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Percentiles | None:
        if not values:
            return None
        p50, p95, p99 = (float(value) for value in np.percentile(values, (50, 95, 99)))
        return cls(p50, p95, p99, float(np.mean(values)))


@dataclass(frozen=True, slots=True)
class Row:
    """One adapter, or the total. Rates are a second of the run's whole length."""

    name: str
    requests: int
    errors: int
    error_kinds: Mapping[str, int]
    requests_per_second: float
    output_tokens_per_second: float
    prompt_tokens_per_second: float
    mean_prompt_tokens: float
    mean_output_tokens: float
    cached_share: float | None
    ttft_seconds: Percentiles | None
    tpot_seconds: Percentiles | None
    e2e_seconds: Percentiles | None

    @property
    def error_rate(self) -> float:
        return self.errors / self.requests if self.requests else 0.0


@dataclass(frozen=True, slots=True)
class Report:
    """The whole run."""

    wall_seconds: float
    total: Row
    adapters: tuple[Row, ...]
    max_late_seconds: float
    cut_short: int = 0


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Limits that each adapter must keep, not only the average: a starved adapter hides in a total."""

    max_ttft_p95_seconds: float | None = None
    max_error_rate: float | None = None

    def broken(self, report: Report) -> list[str]:
        """One sentence for each limit that the total or an adapter does not keep."""
        found: list[str] = []
        for row in (report.total, *report.adapters):
            if self.max_error_rate is not None and row.error_rate > self.max_error_rate:
                found.append(
                    f"{row.name}: {row.errors} of {row.requests} requests failed ({row.error_rate:.2%}), "
                    f"limit {self.max_error_rate:.2%} (--max-error-rate)"
                )
            if self.max_ttft_p95_seconds is not None:
                p95 = None if row.ttft_seconds is None else row.ttft_seconds.p95
                if p95 is None or p95 > self.max_ttft_p95_seconds:
                    said = "no first token at all" if p95 is None else f"TTFT p95 {p95:.3f} s"
                    found.append(f"{row.name}: {said}, limit {self.max_ttft_p95_seconds:.3f} s (--max-ttft-p95)")
        return found


def summarize(outcomes: Sequence[Outcome], wall_seconds: float, models: Iterable[str], cut_short: int = 0) -> Report:
    """Sum up; `models` gives the order of rows, one that was never asked has none."""
    by_model: dict[str, list[Outcome]] = {model: [] for model in models}
    for outcome in outcomes:
        by_model.setdefault(outcome.model, []).append(outcome)
    return Report(
        wall_seconds=wall_seconds,
        total=_row(TOTAL, outcomes, wall_seconds),
        adapters=tuple(_row(model, some, wall_seconds) for model, some in by_model.items() if some),
        max_late_seconds=max((outcome.late_seconds for outcome in outcomes), default=0.0),
        cut_short=cut_short,
    )


def _row(name: str, outcomes: Sequence[Outcome], wall_seconds: float) -> Row:
    good = [outcome for outcome in outcomes if outcome.error is None]
    kinds = collections.Counter(outcome.error for outcome in outcomes if outcome.error is not None)
    seconds = wall_seconds or 1.0
    prompts, outputs = sum(o.prompt_tokens for o in good), sum(o.output_tokens for o in good)
    cached = [o.cached_tokens for o in good if o.cached_tokens is not None]
    return Row(
        name=name,
        requests=len(outcomes),
        errors=len(outcomes) - len(good),
        error_kinds=dict(kinds.most_common()),
        requests_per_second=len(good) / seconds,
        output_tokens_per_second=outputs / seconds,
        prompt_tokens_per_second=prompts / seconds,
        mean_prompt_tokens=prompts / len(good) if good else 0.0,
        mean_output_tokens=outputs / len(good) if good else 0.0,
        cached_share=sum(cached) / prompts if cached and prompts else None,
        ttft_seconds=Percentiles.of([o.ttft_seconds for o in good if o.ttft_seconds is not None]),
        tpot_seconds=Percentiles.of([o.tpot_seconds for o in good if o.tpot_seconds is not None]),
        e2e_seconds=Percentiles.of([o.e2e_seconds for o in good]),
    )


def table(report: Report) -> Table:
    """The report for a person, narrow enough for 80 columns with short names; times in milliseconds."""
    drawn = Table(
        title=f"{report.total.requests} requests in {report.wall_seconds:.1f} s, times in ms",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    drawn.add_column("adapter", overflow="fold", min_width=8)
    for heading in ("reqs", "errors", "reqs/s", "tokens/s"):
        drawn.add_column(heading, justify="right", no_wrap=True)
    for heading in ("TTFT\np50/95/99", "TPOT\np50/95", "e2e\np50/95"):
        drawn.add_column(heading, justify="right", no_wrap=True)
    for row in report.adapters:
        drawn.add_row(*_cells(row))
    drawn.add_section()
    drawn.add_row(*_cells(report.total), style="bold")
    return drawn


def _cells(row: Row) -> list[str]:
    return [
        row.name,
        str(row.requests),
        f"[red]{row.errors}[/]" if row.errors else "0",
        f"{row.requests_per_second:.2f}",
        f"{row.output_tokens_per_second:.1f}",
        _milliseconds(row.ttft_seconds, "p50", "p95", "p99"),
        _milliseconds(row.tpot_seconds, "p50", "p95"),
        _milliseconds(row.e2e_seconds, "p50", "p95"),
    ]


def _milliseconds(times: Percentiles | None, *names: str) -> str:
    if times is None:
        return "-"
    values = [getattr(times, name) * 1000 for name in names]
    return "/".join(f"{value:.1f}" if value < 10 else f"{value:.0f}" for value in values)


def notes(report: Report) -> list[str]:
    """What a reader of the table must know: kinds of error, cached prompts, a client that was too slow."""
    said = [f"{count} × {kind}" for kind, count in report.total.error_kinds.items()]
    said.append(
        f"mean prompt {report.total.mean_prompt_tokens:.0f} tokens, "
        f"mean answer {report.total.mean_output_tokens:.0f} tokens"
    )
    if report.total.cached_share is not None:
        said.append(f"{report.total.cached_share:.1%} of prompt tokens came from the prefix cache")
    if report.max_late_seconds > SLOW_CLIENT_SECONDS:
        said.append(
            f"a request left {report.max_late_seconds:.2f} s late: this machine cannot send at that rate, "
            "so latencies hold its own delay too"
        )
    if report.cut_short:
        said.append(f"stopped early: {report.cut_short} requests under way are not counted")
    return said


def as_json(report: Report, options: Mapping[str, Any], broken: Sequence[str]) -> dict[str, Any]:
    """The report for a program; times in seconds."""
    return {
        "options": dict(options),
        "wall_seconds": report.wall_seconds,
        "max_late_seconds": report.max_late_seconds,
        "cut_short": report.cut_short,
        "total": _plain(report.total),
        "adapters": {row.name: _plain(row) for row in report.adapters},
        "thresholds_broken": list(broken),
    }


def _plain(row: Row) -> dict[str, Any]:
    plain = asdict(row)
    del plain["name"]
    return {**plain, "error_rate": row.error_rate}
