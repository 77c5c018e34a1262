"""Many calls to come on one timer: each happens when it is due, or never once it was cancelled."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from loradock_server.gateway.alarms import Alarms

SECONDS = 0.02


def test_alarms_ring_in_the_order_in_which_they_were_set_and_not_before_their_time() -> None:
    async def main() -> list[str]:
        loop = asyncio.get_running_loop()
        alarms, rung, over = Alarms(SECONDS), [], asyncio.Event()
        began = loop.time()
        alarms.start(lambda: rung.append("first"))
        cancelled = alarms.start(lambda: rung.append("never"))
        alarms.start(lambda: rung.append("second"))
        alarms.start(over.set)
        cancelled.cancel()
        cancelled.cancel()
        await over.wait()
        assert loop.time() >= began + SECONDS
        return rung

    assert asyncio.run(asyncio.wait_for(main(), 60)) == ["first", "second"]


def test_one_that_was_set_later_rings_later_though_the_timer_was_set_for_another() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        alarms, over = Alarms(SECONDS), asyncio.Event()
        rung: list[str] = []
        first = alarms.start(lambda: rung.append("it was cancelled"))
        time.sleep(SECONDS / 2)  # noqa: ASYNC251  in this turn, so that it cannot ring before it is cancelled
        first.cancel()
        began = loop.time()
        alarms.start(over.set)
        await over.wait()
        assert loop.time() >= began + SECONDS
        over.clear()
        alarms.start(over.set)  # when none waited any more
        await over.wait()
        assert rung == []

    asyncio.run(asyncio.wait_for(main(), 60))


def test_one_timer_of_the_loop_is_enough_for_a_thousand(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        timers = 0
        call_at = loop.call_at

        def counted(when: float, call: Callable[..., object], *args: object) -> asyncio.TimerHandle:
            nonlocal timers
            timers += 1
            return call_at(when, call, *args)

        monkeypatch.setattr(loop, "call_at", counted)
        alarms = Alarms(60)
        for _ in range(1000):
            alarms.start(lambda: None).cancel()
        assert timers == 1

    asyncio.run(main())
