"""What gateways tell each other of limits through the registry's database."""

from __future__ import annotations

import threading
import time

import pytest

from loradock_adapters.registry import BucketTaken, DayTaken, Registry, Running, Together, limit_counters

KEY = ("key:a", "requests")


def fill(registry: Registry, gateway: str, taken: float, per_second: float = 0.0) -> float:
    return registry.limits.exchange(gateway, [BucketTaken(*KEY, taken, per_second)], []).buckets[KEY]


def test_what_several_gateways_took_adds_up_and_never_falls_below_nothing(registry: Registry) -> None:
    assert fill(registry, "one", 5) == 5
    assert fill(registry, "two", 2.5) == 7.5
    assert fill(registry, "one", 0) == 7.5
    assert fill(registry, "one", -3) == 4.5
    assert fill(registry, "two", -30) == 0
    assert fill(registry, "one", 1) == 1


def test_a_bucket_drains_by_the_databases_clock(registry: Registry) -> None:
    before = time.monotonic()
    assert fill(registry, "one", 1000, per_second=10) == 1000
    time.sleep(0.05)
    left = fill(registry, "two", 0, per_second=10)
    passed = time.monotonic() - before
    assert 1000 - 10 * passed - 0.1 <= left <= 1000 - 0.4


def test_running_requests_of_others_count_until_they_end_or_their_gateway_does(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limit_counters, "RUNNING_SECONDS", 600.0)  # nobody dies before he is meant to
    tell = registry.limits.exchange
    assert tell("one", [], [Running("adapter:poet", 3), Running("key:a", 1)]).elsewhere == {
        "adapter:poet": 0,
        "key:a": 0,
    }
    assert tell("two", [], [Running("adapter:poet", 2)]).elsewhere == {"adapter:poet": 3}
    assert tell("three", [], [Running("adapter:poet", 0)]).elsewhere == {"adapter:poet": 5}
    tell("two", [], [Running("adapter:poet", 0)])
    assert tell("three", [], [Running("adapter:poet", 0)]).elsewhere == {"adapter:poet": 3}
    monkeypatch.setattr(limit_counters, "RUNNING_SECONDS", -1.0)  # as if it had died long ago
    tell("one", [], [Running("adapter:poet", 3)])
    assert tell("three", [], [Running("adapter:poet", 0)]).elsewhere == {"adapter:poet": 0}


def test_tokens_of_a_day_add_up_and_are_there_after_a_restart(url: str) -> None:
    registry = Registry.open(url)
    assert registry.limits.charge([DayTaken("key:a", 20000, 70), DayTaken("key:b", 20000, 1)]) == {
        ("key:a", 20000): 70,
        ("key:b", 20000): 1,
    }
    assert registry.limits.charge([DayTaken("key:a", 20000, -20), DayTaken("key:a", 20001, 9)]) == {
        ("key:a", 20000): 50,
        ("key:a", 20001): 9,
    }
    registry.close()
    again = Registry.open(url)
    assert again.limits.charged(20000) == {"key:a": 50, "key:b": 1}
    assert again.limits.charged(20002) == {}
    again.close()


def test_tidying_forgets_what_can_count_no_more_and_nothing_else(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = registry.limits
    limits.exchange("one", [BucketTaken("key:a", "requests", 1, 1e9), BucketTaken("key:a", "tokens", 9, 0.0)], [])
    limits.charge([DayTaken("key:a", day, 5) for day in (99, 100, 103)])
    monkeypatch.setattr(limit_counters, "RUNNING_SECONDS", 60.0)
    limits.exchange("one", [], [Running("key:a", 1)])
    limits.tidy(103)
    assert [bool(limits.charged(day)) for day in (99, 100, 103)] == [False, False, True]
    assert fill(registry, "two", 0) == 0
    assert limits.exchange("two", [BucketTaken("key:a", "tokens", 0, 0.0)], [Running("key:a", 0)]) == Together(
        {("key:a", "tokens"): 9}, {"key:a": 1}
    )


def test_many_rows_at_once_and_from_many_threads_lose_nothing(registry: Registry) -> None:
    subjects = [f"key:{number}" for number in range(600)]

    def tell(gateway: str) -> None:
        order = subjects if gateway < "2" else subjects[::-1]
        for _ in range(2):
            registry.limits.exchange(gateway, [BucketTaken(name, "tokens", 1, 0.0) for name in order], [])

    threads = [threading.Thread(target=tell, args=(str(number),)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told = registry.limits.exchange("5", [BucketTaken(name, "tokens", 0, 0.0) for name in subjects], [])
    assert set(told.buckets.values()) == {8.0}


def test_the_registrys_revision_stays(registry: Registry) -> None:
    revision = registry.revision()
    fill(registry, "one", 1)
    registry.limits.charge([DayTaken("key:a", 1, 1)])
    assert registry.revision() == revision
