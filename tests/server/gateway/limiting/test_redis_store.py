"""The store of limits in a real Redis: it adds up, drains and forgets as the one in the registry's database does."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from loradock_adapters.registry import BucketTaken, Running, Together
from loradock_server.gateway.errors import LimitStoreError
from loradock_server.gateway.limiting import redis_store
from loradock_server.gateway.limiting.redis_store import RedisLimits
from tests.redis_server import RedisServer

KEY = ("key:a", "requests")


@pytest.fixture
def store(redis_server: RedisServer) -> Iterator[RedisLimits]:
    made = RedisLimits(redis_server.url())
    yield made
    made.close()


def fill(store: RedisLimits, gateway: str, taken: float, per_second: float = 1e-9) -> float:
    return store.exchange(gateway, [BucketTaken(*KEY, taken, per_second)], []).buckets[KEY]


def test_what_several_gateways_took_adds_up_and_never_falls_below_nothing(store: RedisLimits) -> None:
    assert fill(store, "one", 5) == 5
    assert fill(store, "two", 2.5) == pytest.approx(7.5)
    assert fill(store, "one", -3) == pytest.approx(4.5)
    assert fill(store, "two", -30) == 0
    assert fill(store, "one", 1e12) == 1e12
    assert fill(store, "one", 1) == pytest.approx(1e12 + 1, abs=0.01)


def test_a_bucket_drains_by_redis_own_clock_and_is_forgotten_when_empty(
    store: RedisLimits, redis_server: RedisServer
) -> None:
    before = time.monotonic()
    assert fill(store, "one", 1000, per_second=10) == 1000
    assert 1000 * 100 < int(store._redis.pttl("loradock:{limits}:requests:key:a")) < 1000 * 100 + 61_000
    time.sleep(0.05)
    left = fill(store, "two", 0, per_second=10)
    assert 1000 - 10 * (time.monotonic() - before) - 0.1 <= left <= 1000 - 0.4
    fill(store, "two", -1000)
    assert store._redis.dbsize() == 0


def test_running_requests_of_others_count_until_they_end_or_their_gateway_does(
    store: RedisLimits, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell = store.exchange
    assert tell("one", [], [Running("adapter:poet", 3), Running("key:a", 1)]) == Together(
        {}, {"adapter:poet": 0, "key:a": 0}
    )
    assert tell("two", [], [Running("adapter:poet", 2)]).elsewhere == {"adapter:poet": 3}
    assert tell("three", [], [Running("adapter:poet", 0)]).elsewhere == {"adapter:poet": 5}
    tell("two", [], [Running("adapter:poet", 0)])
    assert tell("three", [], [Running("adapter:poet", 0)]).elsewhere == {"adapter:poet": 3}
    monkeypatch.setattr(redis_store, "RUNNING_SECONDS", -1.0)  # as if it had died long ago
    tell("one", [], [Running("adapter:poet", 3)])
    assert tell("three", [], [Running("adapter:poet", 0)]).elsewhere == {"adapter:poet": 0}


def test_many_at_once_and_from_many_threads_lose_nothing(store: RedisLimits) -> None:
    subjects = [f"key:{number}" for number in range(500)]

    def tell(gateway: str) -> None:
        for _ in range(3):
            store.exchange(gateway, [BucketTaken(name, "tokens", 1, 1e-9) for name in subjects], [])

    threads = [threading.Thread(target=tell, args=(str(number),)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told = store.exchange("5", [BucketTaken(name, "tokens", 0, 1e-9) for name in subjects], [])
    assert [round(content, 3) for content in told.buckets.values()] == [12.0] * 500


def test_a_redis_that_is_away_is_an_error_at_once_and_works_again_when_it_is_back(
    store: RedisLimits, redis_server: RedisServer
) -> None:
    fill(store, "one", 5)
    redis_server.stop()
    begun = time.monotonic()
    with pytest.raises(LimitStoreError, match="LORADOCK_LIMITS_URL"):
        fill(store, "one", 5)
    assert time.monotonic() - begun < 10
    redis_server.start()
    assert fill(store, "one", 1) == 1


def test_a_redis_that_is_frozen_is_an_error_soon_and_counts_nothing_twice_that_was_told_meanwhile(
    store: RedisLimits, redis_server: RedisServer
) -> None:
    quick = RedisLimits(redis_server.url() + "&socket_timeout=1")
    fill(quick, "one", 5)
    fill(store, "two", 1)
    with redis_server.frozen():
        for _ in range(2):
            with pytest.raises(LimitStoreError, match="LORADOCK_LIMITS_URL"):
                fill(quick, "one", 5)  # the same each time, as nobody said that it counted
        time.sleep(1.1)  # until the last of them is too late
    assert fill(store, "one", 5) == pytest.approx(11, abs=0.01)
    quick.close()


def test_a_clock_that_was_set_costs_no_exchange(store: RedisLimits) -> None:
    fill(store, "one", 5)
    for seconds in (-86_400.0, 86_400.0):  # as if Redis' clock had been set forth, and back
        assert store._ahead is not None
        store._ahead += seconds
        fill(store, "one", 1)
    assert fill(store, "one", 0) == pytest.approx(7, abs=0.01)


def test_what_is_no_answer_is_an_error(store: RedisLimits) -> None:
    store._redis.set("loradock:{limits}:requests:key:a", "not ours")
    with pytest.raises(LimitStoreError, match="WRONGTYPE"):
        fill(store, "one", 5)


def test_a_url_that_is_none_is_refused_with_what_would_be_one() -> None:
    with pytest.raises(LimitStoreError, match="redis://host:6379/0"):
        RedisLimits("redis://host:port/0")
