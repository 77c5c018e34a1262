"""Limits as values: what is one, what is none, and that they survive being stored."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loradock_adapters.errors import InvalidLimits
from loradock_adapters.rate_limits import HIGHEST, NO_LIMITS, RateLimits


def _one_of(highest: int) -> st.SearchStrategy[int | None]:
    return st.none() | st.integers(1, highest)


@given(st.fixed_dictionaries({name: _one_of(highest) for name, highest in HIGHEST.items()}))
def test_limits_survive_being_stored(values: dict[str, int | None]) -> None:
    limits = RateLimits(**values)
    assert RateLimits.read(json.loads(json.dumps(limits.document()))) == limits
    assert limits.is_empty == (limits == NO_LIMITS) == (not limits.document())


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "60", [], float("nan"), pytest.param(10**5000, id="huge")])
def test_what_is_no_limit_is_refused_with_value_limit_and_fix(value: Any) -> None:
    with pytest.raises(InvalidLimits) as caught:
        RateLimits.read({"tokens_per_minute": value})
    [fault] = caught.value.faults
    assert fault.where == "tokens_per_minute"
    assert "from 1 to 1000000000000" in fault.limit
    assert "null" in fault.fix
    assert len(str(caught.value)) < 300
    with pytest.raises(InvalidLimits):
        RateLimits(tokens_per_minute=value)


def test_every_fault_is_named_at_once_and_the_nearest_name_with_it() -> None:
    with pytest.raises(InvalidLimits) as caught:
        RateLimits.read({"requests_per_minut": 3, "max_concurrency": 0, "tokens_per_day": -5})
    assert [fault.where for fault in caught.value.faults] == [
        "requests_per_minut",
        "max_concurrency",
        "tokens_per_day",
    ]
    assert "did you mean requests_per_minute?" in caught.value.faults[0].limit


@pytest.mark.parametrize("document", [None, [], "60", 5])
def test_only_an_object_is_read(document: Any) -> None:
    with pytest.raises(InvalidLimits, match="must be a JSON object"):
        RateLimits.read(document)


def test_null_means_no_limit() -> None:
    assert RateLimits.read({"tokens_per_day": None}) == NO_LIMITS
