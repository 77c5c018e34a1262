"""The soak's verdict: what grows is called so, and what only swings is not."""

from __future__ import annotations

import math
from pathlib import Path

from loadtest.soak.__main__ import plot
from loadtest.soak.verdict import ALLOWED, MEBIBYTE, judge


def samples(growth_of_rss_an_hour: float, *, spike: float = 0.0) -> list[dict[str, float]]:
    """Half an hour, one each ten seconds; the first five minutes fill up whatever comes after."""
    return [
        {
            "seconds": 10.0 * n,
            "rss": 150 * MEBIBYTE
            + 20 * MEBIBYTE * min(n / 30, 1)
            + growth_of_rss_an_hour * n / 360
            + math.sin(n) * 1e6,
            "files": 25 + (spike if n == 100 else 0),
            "threads": 9,
            "tasks": 12,
        }
        for n in range(181)
    ]


def flat(found: list[dict[str, float]]) -> set[str]:
    return {verdict.what for verdict in judge(found) if verdict.is_flat}


def test_what_only_swings_is_flat_and_the_warm_up_does_not_count() -> None:
    assert flat(samples(0, spike=100)) == set(ALLOWED)


def test_a_leak_is_found() -> None:
    assert flat(samples(40 * MEBIBYTE)) == set(ALLOWED) - {"rss"}


def test_the_figure_is_drawn(tmp_path: Path) -> None:
    plot(samples(0), tmp_path / "soak.png")
    assert (tmp_path / "soak.png").read_bytes().startswith(b"\x89PNG")
