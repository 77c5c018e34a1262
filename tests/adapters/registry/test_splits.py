"""Which version of a split a key gets."""

from __future__ import annotations

from collections import Counter

import pytest

from loradock_adapters.errors import InvalidSplit
from loradock_adapters.registry import Split

KEYS = [f"user {number}" for number in range(5000)]


def test_a_single_version_gets_everybody() -> None:
    assert {Split.to(3).pick(key) for key in KEYS} == {3}
    assert Split.of({3: 70}) == Split.to(3)


@pytest.mark.parametrize("weights", [{1: 90, 2: 10}, {1: 1, 2: 1}, {4: 5, 7: 3, 9: 2}])
def test_every_version_gets_its_share_of_the_keys(weights: dict[int, int]) -> None:
    got = Counter(Split.of(weights).pick(key) for key in KEYS)
    for version, weight in weights.items():
        assert got[version] / len(KEYS) == pytest.approx(weight / sum(weights.values()), abs=0.03)


def test_a_key_keeps_its_version() -> None:
    split = Split.of({3: 50, 4: 50})
    assert [split.pick(key) for key in KEYS] == [split.pick(key) for key in KEYS]


def test_growing_a_share_moves_keys_to_that_version_only() -> None:
    before, after = Split.of({1: 60, 2: 30, 3: 10}), Split.of({1: 60, 2: 30, 3: 110})
    moved = {(before.pick(key), after.pick(key)) for key in KEYS if before.pick(key) != after.pick(key)}
    assert moved == {(1, 3), (2, 3)}


def test_only_the_ratio_counts() -> None:
    one, other = Split.of({1: 9, 2: 1}), Split.of({1: 900, 2: 100})
    assert [one.pick(key) for key in KEYS] == [other.pick(key) for key in KEYS]


@pytest.mark.parametrize("weights", [{}, {1: 0, 2: 1}, {1: -5, 2: 1}, {1: 10_001}, dict.fromkeys(range(1, 12), 1)])
def test_a_split_that_makes_no_sense_is_refused(weights: dict[int, int]) -> None:
    with pytest.raises(InvalidSplit):
        Split.of(weights)


def test_any_text_may_be_a_key() -> None:
    split = Split.of({1: 1, 2: 1})
    for key in ("", "\ud800", "\0", "x" * 100_000):
        assert split.pick(key) in (1, 2)
