"""Intervals and tests, against numbers that were worked out by hand or by a closed formula."""

from __future__ import annotations

import math

import pytest

from loradock_adapters.evaluating.statistics import compare, estimate

ONES = [1.0] * 100


def test_the_interval_of_a_share_is_near_the_normal_one() -> None:
    found = estimate([1.0] * 40 + [0.0] * 60, ONES, binary=True, seed=1)

    half = 1.96 * math.sqrt(0.4 * 0.6 / 100)
    assert found.mean == 0.4
    assert (found.low, found.high) == pytest.approx((0.4 - half, 0.4 + half), abs=0.02)
    assert found.method == "bca"


def test_the_same_seed_gives_the_same_interval() -> None:
    values = [0.1, 0.9, 0.4, 0.3, 0.8, 0.2]
    one, again, other = (estimate(values, [1.0] * 6, binary=False, seed=seed) for seed in (7, 7, 8))
    assert one == again
    assert one != other


def test_never_right_is_not_certainly_never() -> None:
    found = estimate([0.0] * 150, [1.0] * 150, binary=True, seed=1)
    # Wilson: z² / (n + z²)
    z2 = 1.959964**2
    assert (found.mean, found.low) == (0.0, 0.0)
    assert found.high == pytest.approx(z2 / (150 + z2), rel=1e-5)
    assert found.method == "wilson"


def test_weights_make_a_mean_over_tokens() -> None:
    found = estimate([2.0, 1.0], [1.0, 3.0], binary=False, seed=1)
    assert found.mean == 1.25
    assert 1.0 <= found.low <= found.high <= 2.0


def test_mcnemar_counts_only_where_the_two_differ() -> None:
    ours = [1.0] * 9 + [0.0] * 1 + [1.0] * 50
    theirs = [0.0] * 9 + [1.0] * 1 + [1.0] * 50
    found = compare(ours, theirs, [1.0] * 60, binary=True, seed=1)

    # Two-sided binomial, 1 or fewer of 10: 2 * (1 + 10) / 1024
    assert found.p == pytest.approx(22 / 1024)
    assert (found.test, found.wins, found.losses, found.ties) == ("mcnemar", 9, 1, 50)
    assert found.gain == pytest.approx(8 / 60)
    assert found.low > 0


def test_a_gain_in_every_example_is_as_rare_as_its_signs() -> None:
    gains = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
    found = compare(gains, [0.0] * 8, [1.0] * 8, binary=False, seed=1)
    # All 256 signs are tried: only all plus, and all minus, are as extreme.
    assert found.p == pytest.approx(2 / 256)
    assert found.test == "permutation"


def test_where_less_is_better_less_is_a_gain() -> None:
    found = compare([1.0, 1.5, 1.0], [2.0, 2.0, 2.5], [10.0, 10.0, 20.0], binary=False, higher=False, seed=1)
    assert found.gain == pytest.approx((10 * 1.0 + 10 * 0.5 + 20 * 1.5) / 40)
    assert (found.wins, found.losses) == (3, 0)


def test_equals_have_no_gain_and_no_doubt() -> None:
    found = compare([1.0, 0.0] * 30, [1.0, 0.0] * 30, [1.0] * 60, binary=True, seed=1)
    assert (found.gain, found.low, found.high, found.p, found.ties) == (0, 0, 0, 1, 60)


def test_one_odd_example_among_many_gives_a_finite_interval() -> None:
    found = compare([1.0] + [0.0] * 99, [0.0] * 100, ONES, binary=True, seed=1)
    assert 0 <= found.low <= found.gain <= found.high <= 0.06
    assert all(map(math.isfinite, (found.low, found.high)))
