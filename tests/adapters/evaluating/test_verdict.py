"""The rules of the verdict, one by one."""

from __future__ import annotations

import pytest

from loradock_adapters.evaluating.contenders import Role
from loradock_adapters.evaluating.statistics import Comparison
from loradock_adapters.evaluating.verdict import Rules, decide


def over(low: float, gain: float, high: float, n: int = 150) -> Comparison:
    return Comparison(gain, low, high, 0.5, "mcnemar", n, 1, 1)


@pytest.mark.parametrize(
    ("base", "prompted", "kind", "line"),
    [
        (over(0.4, 0.5, 0.6), over(0.01, 0.1, 0.2), "promote", "promote: better than the prompted base"),
        (over(0.4, 0.5, 0.6), over(-0.01, 0.1, 0.2), "not_enough_data", "not enough data: the gain over the prompted"),
        (over(0.4, 0.5, 0.6), over(-0.03, 0.0, 0.04), "dont", "don't: prompting does as well"),
        (over(0.4, 0.5, 0.6), over(-0.3, -0.2, -0.1), "dont", "don't: prompting does better"),
        (over(0.4, 0.5, 0.6, n=29), over(0.4, 0.5, 0.6, n=29), "not_enough_data", "not enough data: 29 examples"),
    ],
)
def test_the_stronger_rival_decides(base: Comparison, prompted: Comparison, kind: str, line: str) -> None:
    found = decide({"base": base, "prompted": prompted}, "prompted", Rules())
    assert found.kind == kind
    assert found.line.startswith(line)


def test_against_the_base_alone() -> None:
    assert decide({"base": over(-0.3, -0.2, -0.1)}, "base", Rules()).line == "don't: worse than base"
    assert decide({"base": over(-0.02, 0.0, 0.02)}, "base", Rules()).line == "don't: the base does as well"


def test_forgetting_counts_only_where_a_limit_was_set_and_as_far_as_it_is_certain() -> None:
    gains: dict[Role, Comparison] = {"base": over(0.4, 0.5, 0.6)}
    forgot = over(-0.3, -0.2, -0.15, n=40)
    assert decide(gains, "base", Rules(), forgot).kind == "promote"
    assert decide(gains, "base", Rules(max_forgetting=0.16), forgot).kind == "promote"
    refused = decide(gains, "base", Rules(max_forgetting=0.1), forgot)
    assert (refused.kind, refused.line) == (
        "dont",
        "don't: better than the base, but it forgot more than allowed (-20.0 points on general questions)",
    )


def test_too_little_data_says_how_much_would_tell() -> None:
    # Twice as wide as the gain of 0.05: four times as many.
    found = decide({"base": over(-0.05, 0.05, 0.15, n=100)}, "base", Rules(worth=0.01))
    assert found.needed == 400
    wider = decide({"base": over(-0.1, 0.0, 0.1, n=100)}, "base", Rules(worth=0.05))
    assert wider.needed == 400
