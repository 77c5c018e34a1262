"""Looking for newer keys: few reads for many who ask, and none that pile up behind a registry that says nothing."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from loradock_adapters.registry import KeyRing
from loradock_server.gateway import auth
from loradock_server.gateway.auth import Authenticator
from loradock_server.gateway.errors import InvalidKey


class Frozen:
    """The registry's keys, read when `thawed`, and no key in them."""

    def __init__(self) -> None:
        self.thawed = threading.Event()
        self.reads = 0

    def ring(self, since: KeyRing | None = None) -> KeyRing:
        self.reads += 1
        assert self.thawed.wait(30)
        return KeyRing(1)


class NoUses:
    def note(self, id: str, at: float) -> None:
        raise AssertionError("nobody's key is used")


def test_many_unknown_keys_wait_for_one_read_after_the_one_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "_SECONDS_BETWEEN_READS", 0.0)
    keys: Any = Frozen()
    uses: Any = NoUses()

    async def main() -> list[BaseException | Any]:
        gate = Authenticator(keys, uses)
        asked = []
        for wave in range(20):
            ask = gate.inference({"authorization": f"Bearer ld-{wave}"})
            asked.append(asyncio.create_task(ask))
            await asyncio.sleep(0.005)
        reading = [task for task in asyncio.all_tasks() if "_read_soon" in repr(task)]
        assert len(reading) == 2, "the one that hangs, and the one after it"
        keys.thawed.set()
        return await asyncio.gather(*asked, return_exceptions=True)

    answers = asyncio.run(main())
    assert {type(answer) for answer in answers} == {InvalidKey}
    assert keys.reads == 2


def test_whoever_stops_waiting_stops_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "_SECONDS_BETWEEN_READS", 0.0)
    keys: Any = Frozen()
    uses: Any = NoUses()

    async def main() -> None:
        gate = Authenticator(keys, uses)
        first, second = (asyncio.create_task(gate.inference({"x-api-key": "ld-x"})) for _ in range(2))
        while not keys.reads:
            await asyncio.sleep(0.001)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        keys.thawed.set()
        with pytest.raises(InvalidKey):
            await second

    asyncio.run(main())
