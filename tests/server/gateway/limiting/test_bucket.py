"""The arithmetic of one limit by the minute, on made-up time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loradock_server.gateway.limiting.bucket import SLACK, Bucket, Charge


def test_a_whole_minutes_worth_may_go_at_once_and_then_as_much_as_drains() -> None:
    bucket = Bucket(60, 100.0)
    for _ in range(60):
        assert bucket.wait(1) == 0
        bucket.take(1)
    assert (bucket.left, bucket.wait(1), bucket.seconds_to_empty) == (0, 1.0, 60.0)
    bucket.drain(60, 100.5)
    assert bucket.wait(1) == pytest.approx(0.5)
    bucket.drain(60, 101.0)
    assert bucket.wait(1) == 0


def test_what_is_more_than_the_limit_fits_once_nothing_else_is_in() -> None:
    bucket = Bucket(100, 0.0)
    bucket.take(1)
    assert bucket.wait(10**9) == pytest.approx(0.6)
    bucket.drain(100, 0.6)
    assert bucket.wait(10**9) == 0
    assert bucket.take(10**9).amount == 100


def test_a_limit_that_changes_keeps_what_was_taken() -> None:
    bucket = Bucket(100, 0.0)
    bucket.take(80)
    bucket.drain(50, 0.0)
    assert bucket.left == 0
    assert bucket.wait(1) == pytest.approx(31 * 60 / 50)
    bucket.drain(1000, 0.0)
    assert bucket.left == 920


def test_what_was_too_much_goes_back_but_not_what_has_drained_already() -> None:
    bucket = Bucket(6000, 0.0)
    charges = [bucket.take(300) for _ in range(10)]
    bucket.drain(6000, 5.0)  # 500 of 3000 have drained: a sixth of each
    for charge in charges:
        bucket.correct(charge, 20)
    assert bucket.content == pytest.approx(200 * 5 / 6)
    late = bucket.take(100)
    bucket.drain(6000, 60.0)
    bucket.correct(late, 0)
    assert bucket.content == 0


def test_what_was_too_little_is_owed() -> None:
    bucket = Bucket(100, 0.0)
    bucket.correct(bucket.take(10), 500)
    assert bucket.content == 500
    assert bucket.wait(1) == pytest.approx(401 * 0.6)


class _User:
    """Takes what fits and later says what it was in truth; remembers that and when it was let in."""

    def __init__(self, limit: int) -> None:
        self.bucket = Bucket(limit, 0.0)
        self.limit = limit
        self.time = 0.0
        self.open: list[tuple[Charge, float]] = []
        self.used: list[tuple[float, float]] = []

    def act(self, pause: float, amount: float, settle: int, part: float) -> None:
        self.time += pause
        self.bucket.drain(self.limit, self.time)
        if self.open and settle % 2:
            charge, truth = self.open.pop(settle % len(self.open))
            self.bucket.correct(charge, truth)
        if self.bucket.wait(amount) == 0:
            charge = self.bucket.take(amount)
            self.open.append((charge, charge.amount * part))
            self.used.append((self.time, charge.amount * part))


ACTS = st.lists(
    st.tuples(st.floats(0, 30), st.floats(0.1, 150), st.integers(0, 99), st.floats(0, 1)), min_size=1, max_size=60
)


@given(st.integers(1, 100), ACTS)
def test_never_more_than_the_limit_and_what_drains_is_used_in_any_stretch_of_time(
    limit: int, acts: list[tuple[float, float, int, float]]
) -> None:
    user = _User(limit)
    for act in acts:
        user.act(*act)
        assert user.bucket.content <= limit + SLACK
    for start, (begun, _) in enumerate(user.used):
        total = 0.0
        for at, used in user.used[start:]:
            total += used
            assert total <= limit + (at - begun) * limit / 60 + 1e-3


@given(st.integers(1, 100), ACTS)
def test_what_was_taken_and_turns_out_to_be_nothing_leaves_nothing(
    limit: int, acts: list[tuple[float, float, int, float]]
) -> None:
    user = _User(limit)
    for pause, amount, settle, _ in acts:
        user.act(pause, amount, settle, 0.0)
    for charge, _ in user.open:
        user.bucket.correct(charge, 0)
    assert user.bucket.content == pytest.approx(0, abs=1e-6)


@given(st.lists(st.tuples(st.integers(0, 2), st.floats(0, 5), st.floats(0.1, 40)), max_size=60))
def test_gateways_that_share_a_bucket_owe_together_what_they_took_together(
    acts: list[tuple[int, float, float]],
) -> None:
    """With an exchange around every act, so that nobody is unaware of anything: then it is as if there were one."""
    limit, now = 60, 0.0
    buckets = [Bucket(limit, 0.0) for _ in range(3)]
    shared = Bucket(limit, 0.0)
    admitted = 0.0
    for who, pause, amount in acts:
        now += pause
        bucket = buckets[who]
        bucket.drain(limit, now)
        shared.drain(limit, now)
        shared.hear(shared.content + bucket.send())
        bucket.hear(shared.content)
        if bucket.wait(amount) == 0:
            admitted += bucket.take(amount).amount
            shared.hear(shared.content + bucket.send())
            bucket.hear(shared.content)
        assert admitted <= limit + now + 1e-3
        assert shared.content <= limit + 1e-3
