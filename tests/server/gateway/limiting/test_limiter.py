"""Keys and adapters with limits, on made-up time: both let a request in or neither counts, and all is given back."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from prometheus_client import CollectorRegistry

from loradock_adapters.adapter_settings import AdapterSettings
from loradock_adapters.names import AdapterRef
from loradock_adapters.rate_limits import NO_LIMITS, RateLimits
from loradock_server.gateway.errors import AdapterBusy, KeyBusy, OverLimit, QuotaExhausted, RateLimited, explain
from loradock_server.gateway.exchange import Exchange
from loradock_server.gateway.limiting.headers import duration
from loradock_server.gateway.limiting.limiter import SETTLE_SECONDS, Limiter
from loradock_server.gateway.routes import OPERATIONS, Operation
from loradock_server.gateway.table import Target
from loradock_server.gateway.usage import Usage
from loradock_server.telemetry.metrics import GatewayMetrics

NOON = 20_000 * 86_400 + 43_200.0
CHAT = OPERATIONS[0]


@dataclass(frozen=True, slots=True)
class Key:
    id: str = "key-1"
    name: str = "my-app"
    limits: RateLimits = NO_LIMITS


@dataclass(slots=True)
class Scene:
    """A limiter whose clocks stand still until told."""

    seconds: float = 0.0
    metrics: GatewayMetrics = field(default_factory=lambda: GatewayMetrics(CollectorRegistry()))
    limiter: Limiter = field(init=False)

    def __post_init__(self) -> None:
        self.limiter = Limiter(
            self.metrics, lambda: 2048, steady=lambda: self.seconds, wall=lambda: NOON + self.seconds
        )

    def ask(
        self,
        key: RateLimits = NO_LIMITS,
        adapter: RateLimits = NO_LIMITS,
        *,
        size: int = 400,
        body: Mapping[str, Any] | None = None,
        id: str = "key-1",
        name: str = "poet",
        operation: Operation = CHAT,
    ) -> Exchange:
        """A request that was let in. Raises OverLimit."""
        exchange = Exchange(uuid.uuid4().hex, operation)
        exchange.holder = Key(id, limits=key)
        said = AdapterSettings.stored(adapter.document())
        exchange.target = Target(f"{name}@1", AdapterRef(name, 1), "d" * 64, settings=said)
        self.limiter.admit(exchange, {"max_tokens": 100} if body is None else body, size)
        exchange.sent = True
        return exchange

    def end(self, exchange: Exchange, tokens: int | None = None) -> None:
        """It is over; the engine told so many tokens."""
        if tokens is not None:
            self.tell(exchange, tokens)
        self.limiter.finish(exchange)

    def tell(self, exchange: Exchange, tokens: int) -> None:
        self.limiter.record(Usage(exchange.request_id, None, tokens // 2, tokens - tokens // 2, 0, None, None, None, 0))

    def refused(self, key: RateLimits = NO_LIMITS, adapter: RateLimits = NO_LIMITS) -> OverLimit:
        with pytest.raises(OverLimit) as caught:
            self.ask(key, adapter)
        return caught.value


def test_without_limits_nothing_is_held_and_nothing_said() -> None:
    scene = Scene()
    exchange = scene.ask()
    assert (exchange.permit, exchange.limit_headers, scene.limiter.subjects) == (None, (), {})
    scene.end(exchange)


def test_the_request_over_the_limit_is_told_whose_limit_its_value_and_when_to_come_back() -> None:
    scene = Scene()
    limits = RateLimits(requests_per_minute=2)
    first = scene.ask(limits)
    assert dict(first.limit_headers) == {
        "x-ratelimit-limit-requests": "2",
        "x-ratelimit-remaining-requests": "1",
        "x-ratelimit-reset-requests": "30s",
    }
    scene.seconds = 10
    scene.ask(limits)
    error = scene.refused(limits)
    assert isinstance(error, RateLimited)
    assert "API key 'my-app'" in str(error)
    assert "limit 2, used 2, this request 1" in str(error)
    answer = explain(error)
    headers = dict(answer.headers)
    assert (answer.status, headers["retry-after"], headers["retry-after-ms"]) == (429, "20", "20000")
    assert "x-should-retry" not in headers
    scene.seconds += 19.99
    assert scene.refused(limits).retry_after == "1"
    scene.seconds += 0.01
    scene.ask(limits)


def test_a_request_that_one_limit_refuses_counts_for_none() -> None:
    scene = Scene()
    key, adapter = RateLimits(requests_per_minute=5, tokens_per_day=10_000), RateLimits(requests_per_minute=1)
    scene.ask(key, adapter)
    for _ in range(10):
        error = scene.refused(key, adapter)
        assert "model 'poet'" in str(error)
    exchange = scene.ask(key, name="other")
    assert dict(exchange.limit_headers)["x-ratelimit-remaining-requests"] == "3"
    page = {
        sample.labels["limit"]: sample.value
        for family in scene.metrics.rate_limited.collect()
        for sample in family.samples
        if sample.name.endswith("_total")
    }
    assert page == {"adapter_requests_per_minute": 10}


def test_headers_name_the_limit_that_leaves_least() -> None:
    scene = Scene()
    exchange = scene.ask(
        RateLimits(requests_per_minute=100, tokens_per_minute=1000),
        RateLimits(requests_per_minute=50, tokens_per_minute=5000, tokens_per_day=9000),
    )
    assert dict(exchange.limit_headers) == {
        "x-ratelimit-limit-requests": "50",
        "x-ratelimit-remaining-requests": "49",
        "x-ratelimit-reset-requests": "1.2s",
        "x-ratelimit-limit-tokens": "1000",
        "x-ratelimit-remaining-tokens": "800",
        "x-ratelimit-reset-tokens": "12s",
        "x-ratelimit-limit-tokens-day": "9000",
        "x-ratelimit-remaining-tokens-day": "8800",
        "x-ratelimit-reset-tokens-day": "12h0m0s",
    }


def test_anthropics_clients_are_told_in_their_headers_too() -> None:
    scene = Scene()
    messages = next(one for one in OPERATIONS if one.dialect == "anthropic")

    def told(limits: RateLimits) -> dict[str, str]:
        headers = scene.ask(limits, operation=messages, id=str(limits)).limit_headers
        return {name: value for name, value in headers if name.startswith("anthropic-")}

    assert told(RateLimits(requests_per_minute=50, tokens_per_minute=1000, tokens_per_day=9000)) == {
        "anthropic-ratelimit-requests-limit": "50",
        "anthropic-ratelimit-requests-remaining": "49",
        "anthropic-ratelimit-requests-reset": "2024-10-04T12:00:02Z",  # in 1.2 seconds
        "anthropic-ratelimit-tokens-limit": "1000",
        "anthropic-ratelimit-tokens-remaining": "800",
        "anthropic-ratelimit-tokens-reset": "2024-10-04T12:00:12Z",
    }
    assert told(RateLimits(tokens_per_minute=1000, tokens_per_day=900)) == {
        "anthropic-ratelimit-tokens-limit": "900",
        "anthropic-ratelimit-tokens-remaining": "700",
        "anthropic-ratelimit-tokens-reset": "2024-10-05T00:00:00Z",
    }
    assert told(RateLimits(max_concurrency=5)) == {}
    chat = scene.ask(RateLimits(requests_per_minute=50)).limit_headers
    assert not [name for name, _ in chat if name.startswith("anthropic-")]


def test_tokens_are_charged_as_estimated_until_the_engine_tells_the_truth() -> None:
    scene = Scene()
    limits = RateLimits(tokens_per_minute=1000)
    one, two = scene.ask(limits, size=1600), scene.ask(limits, size=1200)  # 400 + 100 and 300 + 100
    assert dict(two.limit_headers)["x-ratelimit-remaining-tokens"] == "100"
    error = scene.refused(limits)  # 100 + 100
    assert error.about["asked"] == 200
    assert error.retry_after == "6"
    scene.end(one, 30)
    three = scene.ask(limits)
    assert dict(three.limit_headers)["x-ratelimit-remaining-tokens"] == str(1000 - 30 - 400 - 200)
    scene.end(two, 5000)  # an answer that the estimate did not foresee is paid for afterwards
    assert scene.refused(limits).wait == pytest.approx((30 + 5000 + 200 + 200 - 1000) * 60 / 1000)


def test_an_engine_that_never_tells_is_not_waited_for() -> None:
    scene = Scene()
    limits = RateLimits(tokens_per_day=1000)
    exchange = scene.ask(limits)
    scene.end(exchange)
    scene.seconds += SETTLE_SECONDS
    scene.limiter.give_up()
    scene.tell(exchange, 1)
    assert scene.limiter.subjects["key:key-1"].used == 200


def test_what_no_engine_got_costs_a_request_and_no_tokens() -> None:
    scene = Scene()
    limits = RateLimits(requests_per_minute=5, tokens_per_minute=1000, tokens_per_day=1000, max_concurrency=1)
    exchange = scene.ask(limits)
    exchange.sent = False
    scene.end(exchange)
    headers = dict(scene.ask(limits).limit_headers)
    assert headers["x-ratelimit-remaining-requests"] == "3"
    assert headers["x-ratelimit-remaining-tokens"] == headers["x-ratelimit-remaining-tokens-day"] == "800"


def test_the_days_budget_is_a_quota_that_comes_back_at_midnight_utc() -> None:
    scene = Scene()
    limits = RateLimits(tokens_per_day=250)
    scene.end(scene.ask(limits), 249)
    scene.end(scene.ask(limits), 200)
    error = scene.refused(limits)
    assert isinstance(error, QuotaExhausted)
    assert "has used 449 tokens today, its budget is 250 a day" in str(error)
    assert "2024-10-05T00:00:00Z, in 12h0m0s" in str(error)
    headers = dict(explain(error).headers)
    assert (headers["retry-after"], headers["x-should-retry"]) == ("43200", "false")
    scene.seconds = 43_199.5
    late = scene.refused(limits)
    assert late.retry_after == "1"
    scene.seconds = 43_200.0
    exchange = scene.ask(limits)
    assert dict(exchange.limit_headers)["x-ratelimit-remaining-tokens-day"] == "50"


def test_a_request_belongs_to_the_day_on_which_it_was_let_in() -> None:
    scene = Scene()
    limits = RateLimits(tokens_per_day=1000)
    exchange = scene.ask(limits)
    scene.seconds = 43_201.0
    scene.end(scene.ask(limits), 10)
    scene.end(exchange, 900)
    assert scene.limiter.subjects["key:key-1"].used == 10


@pytest.mark.parametrize("of", ["key", "adapter"])
def test_places_come_free_when_a_request_is_over(of: str) -> None:
    scene = Scene()
    one = RateLimits(max_concurrency=1)
    limits = (one, NO_LIMITS) if of == "key" else (NO_LIMITS, one)
    exchange = scene.ask(*limits)
    error = scene.refused(*limits)
    assert type(error) is (KeyBusy if of == "key" else AdapterBusy)
    assert error.retry_after == "1"
    scene.end(exchange)
    scene.end(exchange)  # once is once
    scene.ask(*limits)
    scene.refused(*limits)


@pytest.mark.parametrize(
    ("body", "size", "tokens"),
    [
        ({}, 400, 356),
        ({"max_tokens": 10}, 400, 110),
        ({"max_tokens": 10, "max_completion_tokens": 20}, 400, 120),
        ({"max_tokens": 10, "n": 3}, 400, 130),
        ({"max_tokens": 10**30, "n": 10**30}, 4, 1 + 2048 * 128),
        ({"max_tokens": "10"}, 4, 257),
        ({"max_tokens": True, "n": False}, 4, 257),
        ({"max_tokens": -5, "n": -1}, 4, 257),
        ({"max_tokens": 1, "prompt": ["a", "b"]}, 4, 3),
        ({"max_tokens": 1, "prompt": [1, 2, 3]}, 4, 2),
        ({"max_tokens": 1, "prompt": []}, 0, 2),
    ],
)
def test_the_estimate_takes_any_body(body: Mapping[str, Any], size: int, tokens: int) -> None:
    scene = Scene()
    scene.ask(RateLimits(tokens_per_day=10**12), body=body, size=size)
    assert scene.limiter.subjects["key:key-1"].used == tokens


@given(st.floats(0, 1e6))
def test_durations_are_never_too_short(seconds: float) -> None:
    text = duration(seconds)
    total, number = 0.0, ""
    for char in text.replace("ms", "u"):
        if char in "hmsu":
            total += float(number) * {"h": 3600, "m": 60, "s": 1, "u": 0.001}[char]
            number = ""
        else:
            number += char
    assert seconds - 1e-6 <= total <= seconds + 0.001 + 1e-6


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.0001, "1ms"), (0.12, "120ms"), (1, "1s"), (7.66, "7.66s"), (360, "6m0s"), (3720.5, "1h2m0.5s")],
)
def test_durations_look_as_openais_do(seconds: float, text: str) -> None:
    assert duration(seconds) == text


LIMITS = st.builds(
    RateLimits,
    requests_per_minute=st.none() | st.integers(1, 30),
    tokens_per_minute=st.none() | st.integers(1, 3000),
    max_concurrency=st.none() | st.integers(1, 4),
    tokens_per_day=st.none() | st.integers(1, 5000),
)


class Traffic(RuleBasedStateMachine):
    """Keys and adapters with limits that never change, requests that come and end in every order and way."""

    def __init__(self) -> None:
        super().__init__()
        self.scene = Scene()
        self.running: list[Exchange] = []
        self.untold: list[Exchange] = []
        self.limits: dict[str, RateLimits] = {}

    @rule(
        key=st.sampled_from("ab"), adapter=st.sampled_from("xyz"), one=LIMITS, other=LIMITS, size=st.integers(0, 4000)
    )
    def ask(self, key: str, adapter: str, one: RateLimits, other: RateLimits, size: int) -> None:
        of_key = self.limits.setdefault(f"key:{key}", one)
        of_adapter = self.limits.setdefault(f"adapter:{adapter}", other)
        before = self.state()
        error = self._try(of_key, of_adapter, size, key, adapter)
        if error is None:
            return
        assert self.state() == before, "it was refused, and something was taken"
        assert error.wait > 0
        # Nobody else comes: after the time that it was told it is let in, unless a place is in the way, of which
        # nobody knows when it comes free.
        if error.about["limit"] != "max_concurrency":
            self.scene.seconds += error.wait + 1e-6
            again = self._try(of_key, of_adapter, size, key, adapter)
            assert again is None or again.about["limit"] == "max_concurrency"

    def _try(self, of_key: RateLimits, of_adapter: RateLimits, size: int, key: str, adapter: str) -> OverLimit | None:
        try:
            self.running.append(self.scene.ask(of_key, of_adapter, size=size, id=key, name=adapter))
        except OverLimit as error:
            return error
        return None

    def state(self) -> list[tuple[Any, ...]]:
        """All that is taken now."""
        now, found = self.scene.limiter.now(), []
        for id, one in sorted(self.scene.limiter.subjects.items()):
            one.refresh(one.limits, now)
            contents = [bucket.content for bucket in (one.requests, one.tokens) if bucket is not None]
            if one.running or one.used or any(contents):
                found.append((id, one.running, one.used, contents))
        return found

    @rule(seconds=st.floats(0, 20))
    def wait(self, seconds: float) -> None:
        self.scene.seconds += seconds

    @rule(which=st.integers(0, 99), sent=st.booleans(), told=st.none() | st.integers(0, 2000))
    def end(self, which: int, sent: bool, told: int | None) -> None:
        if self.running:
            exchange = self.running.pop(which % len(self.running))
            exchange.sent = sent
            if told is not None and sent:
                self.scene.tell(exchange, told)
            elif sent:
                self.untold.append(exchange)
            self.scene.end(exchange)

    @rule(tokens=st.integers(0, 2000))
    def tell(self, tokens: int) -> None:
        if self.untold:
            self.scene.tell(self.untold.pop(), tokens)

    @invariant()
    def places_are_those_of_requests_that_run(self) -> None:
        for id, limits in self.limits.items():
            subject = self.scene.limiter.subjects.get(id)
            running = sum(
                1 for one in self.running for hold in (one.permit.holds if one.permit else ()) if hold.subject.id == id
            )
            assert (subject.running if subject else 0) == running
            if limits.max_concurrency is not None:
                assert running <= limits.max_concurrency

    def teardown(self) -> None:
        while self.running:
            self.end(0, True, 0)
        while self.untold:
            self.tell(0)
        assert not self.scene.limiter._unsettled
        self.scene.seconds += 1e9  # also the days are over
        self.scene.limiter.touched.clear()
        self.scene.limiter.forget_idle()
        assert not self.scene.limiter.subjects


TestTraffic = Traffic.TestCase
TestTraffic.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
