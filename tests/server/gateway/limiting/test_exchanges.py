"""What a gateway tells the stores and hears from them, exchange by exchange, on made-up time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Collection, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest

from loradock_adapters.errors import RegistryError
from loradock_adapters.rate_limits import RateLimits
from loradock_adapters.registry import BucketTaken, DayTaken, Running, Together
from loradock_server.gateway.errors import KeyBusy, RateLimited
from loradock_server.gateway.limiting import sharing
from loradock_server.gateway.limiting.sharing import Sharing
from tests.server.gateway.limiting.test_limiter import Scene

TODAY = 20_000
ID = "key:key-1"


@dataclass(slots=True)
class Store:
    """Adds up what it is told, as the real ones do but that it does not drain; `away` makes it fail."""

    buckets: dict[tuple[str, str], float] = field(default_factory=dict)
    others: dict[str, int] = field(default_factory=dict)
    days: dict[tuple[str, int], int] = field(default_factory=dict)
    told: list[tuple[list[BucketTaken], list[Running]]] = field(default_factory=list)
    tidied: list[int] = field(default_factory=list)
    away: bool = False
    meanwhile: Callable[[], None] | None = None

    def exchange(self, gateway: str, taken: Collection[BucketTaken], running: Collection[Running]) -> Together:
        self._answer()
        self.told.append((list(taken), list(running)))
        for one in taken:
            name = (one.subject, one.kind)
            self.buckets[name] = max(0.0, self.buckets.get(name, 0.0) + one.taken)
        return Together(
            {(one.subject, one.kind): self.buckets[one.subject, one.kind] for one in taken},
            {one.subject: self.others.get(one.subject, 0) for one in running},
        )

    def charge(self, taken: Collection[DayTaken]) -> Mapping[tuple[str, int], int]:
        self._answer()
        for one in taken:
            self.days[one.subject, one.day] = self.days.get((one.subject, one.day), 0) + one.tokens
        return {(one.subject, one.day): self.days[one.subject, one.day] for one in taken}

    def charged(self, day: int) -> Mapping[str, int]:
        self._answer()
        return {subject: tokens for (subject, when), tokens in self.days.items() if when == day}

    def tidy(self, day: int) -> None:
        self.tidied.append(day)

    def close(self) -> None:
        pass

    def _answer(self) -> None:
        if self.meanwhile is not None:
            self.meanwhile()
        if self.away:
            raise RegistryError("nobody is there")


@dataclass(slots=True)
class World:
    scene: Scene = field(default_factory=Scene)
    store: Store = field(default_factory=Store)
    sharing: Sharing = field(init=False)

    def __post_init__(self) -> None:
        self.sharing = Sharing(self.scene.limiter, self.store, self.store, "gateway")

    def run(self, *work: Coroutine[Any, Any, None]) -> None:
        async def all_of_it() -> None:
            for one in work:
                await one

        asyncio.run(all_of_it())

    def exchange(self) -> None:
        self.run(self.sharing.exchange())


def test_nothing_is_told_where_nothing_is_limited_or_happened() -> None:
    world = World()
    world.scene.end(world.scene.ask())
    world.exchange()
    world.scene.end(world.scene.ask(RateLimits(requests_per_minute=5)), 1)
    world.exchange()
    world.exchange()
    assert world.store.told == [([BucketTaken(ID, "requests", 1.0, 5 / 60)], [])]


def test_what_is_taken_while_an_exchange_runs_is_told_with_the_next_one() -> None:
    world = World()
    limits = RateLimits(requests_per_minute=100, tokens_per_day=10_000)
    world.scene.ask(limits)
    world.store.meanwhile = lambda: None if world.store.told else _ask(world, limits)
    world.exchange()
    world.store.meanwhile = None
    subject = world.scene.limiter.subjects[ID]
    assert subject.requests is not None
    assert subject.requests.left == 100 - 1 - int(subject.requests.unsent)
    world.exchange()
    count = subject.running
    assert world.store.buckets[ID, "requests"] == count
    assert world.store.days[ID, TODAY] == subject.used == 200 * count


def _ask(world: World, limits: RateLimits) -> None:
    world.scene.ask(limits)


def test_what_could_not_be_told_is_told_later_and_what_drained_meanwhile_is_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World()
    limits = RateLimits(requests_per_minute=60, tokens_per_day=10_000)
    world.store.away = True
    for _ in range(3):
        world.scene.end(world.scene.ask(limits), 50)
        world.exchange()
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"], "each store once"
    world.scene.seconds += 1
    world.store.away = False
    world.exchange()
    assert world.store.buckets[ID, "requests"] == pytest.approx(2)
    assert world.store.days[ID, TODAY] == 150
    world.scene.end(world.scene.ask(limits), 50)
    world.exchange()
    assert world.store.buckets[ID, "requests"] == pytest.approx(3)
    assert world.store.days[ID, TODAY] == 200


def test_others_are_heard_of() -> None:
    world = World()
    limits = RateLimits(requests_per_minute=60, max_concurrency=3, tokens_per_day=1000)
    world.scene.end(world.scene.ask(limits), 1)
    world.store.buckets[ID, "requests"] = 58.0
    world.store.others[ID] = 2
    world.store.days[ID, TODAY] = 500
    world.exchange()
    exchange = world.scene.ask(limits)
    headers = dict(exchange.limit_headers)
    assert headers["x-ratelimit-remaining-requests"] == "0"
    assert headers["x-ratelimit-remaining-tokens-day"] == str(1000 - 501 - 200)
    assert isinstance(world.scene.refused(limits), (KeyBusy, RateLimited))
    world.scene.end(exchange, 1)
    world.exchange()
    world.scene.seconds += 60
    world.store.others[ID] = 0
    # Nothing happened here, and yet it asks: it knows of places that others have.
    world.exchange()
    assert world.scene.limiter.subjects[ID].elsewhere == 0
    told = len(world.store.told)
    world.exchange()
    assert len(world.store.told) == told


def test_a_request_that_runs_on_is_told_of_again_before_it_is_forgotten() -> None:
    world = World()
    world.scene.ask(RateLimits(max_concurrency=3))
    for _ in range(25):
        world.exchange()
        world.scene.seconds += 0.5
    assert [running for _, running in world.store.told] == [[Running(ID, 1)]] * 5


def test_a_restarted_gateway_knows_what_was_used_of_the_day_and_the_last_is_told_at_the_end() -> None:
    world = World()
    limits = RateLimits(tokens_per_day=1000)
    world.store.days[ID, TODAY] = 900
    world.run(world.sharing.start())
    exchange = world.scene.ask(limits)
    assert dict(exchange.limit_headers)["x-ratelimit-remaining-tokens-day"] == "0"
    world.scene.end(exchange, 7)
    world.run(world.sharing.close())
    assert world.store.days[ID, TODAY] == 907


def test_a_gateway_that_leaves_in_the_middle_of_an_exchange_ends_it_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its threads are busy, so that what was to be told waits for one when the gateway is told to leave."""
    monkeypatch.setattr(sharing, "EXCHANGE_SECONDS", 0.0)
    world = World()
    world.scene.end(world.scene.ask(RateLimits(tokens_per_day=1000)), 70)

    async def leave() -> None:
        busy = threading.Event()
        with ThreadPoolExecutor(1) as threads:
            asyncio.get_running_loop().set_default_executor(threads)
            held = asyncio.ensure_future(asyncio.to_thread(busy.wait))
            following = asyncio.create_task(world.sharing.follow())
            while world.scene.limiter.touched:
                await asyncio.sleep(0)
            await asyncio.sleep(0.01)
            following.cancel()
            with pytest.raises(asyncio.CancelledError):
                await following
            busy.set()
            await held
            await world.sharing.close()

    asyncio.run(leave())
    assert world.store.days == {(ID, TODAY): 70}


def test_a_start_without_the_store_begins_the_day_anew() -> None:
    world = World()
    world.store.away = True
    world.run(world.sharing.start())
    world.scene.ask(RateLimits(tokens_per_day=1000))


def test_what_says_nothing_any_more_is_forgotten_here_and_there() -> None:
    world = World()
    world.scene.end(world.scene.ask(RateLimits(requests_per_minute=60), RateLimits(tokens_per_day=500)), 9)
    world.exchange()
    world.scene.seconds = 700
    world.exchange()
    assert world.store.tidied == [TODAY]
    assert set(world.scene.limiter.subjects) == {"adapter:poet"}, "it has used something of its day"
