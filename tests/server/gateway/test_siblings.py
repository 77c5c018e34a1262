"""Workers hear of one another's changes, and of nobody else's."""

from __future__ import annotations

import asyncio
import secrets

from loradock_server.gateway.siblings import Siblings


def test_each_worker_hears_the_others_and_not_itself() -> None:
    async def talk() -> list[int]:
        family = secrets.token_hex(8)
        one, two, strange = Siblings(family, 1, 2), Siblings(family, 2, 2), Siblings(secrets.token_hex(8), 1, 2)
        heard: list[int] = []
        came = asyncio.Event()

        def hear(who: int) -> None:
            heard.append(who)
            came.set()

        with one.heard(lambda: hear(1)), two.heard(lambda: hear(2)), strange.heard(lambda: hear(3)):
            one.tell()
            await asyncio.wait_for(came.wait(), 60)
            came.clear()
            two.tell()
            await asyncio.wait_for(came.wait(), 60)
        return heard

    assert asyncio.run(talk()) == [2, 1]


def test_telling_those_who_are_not_there_harms_nobody() -> None:
    async def talk() -> None:
        alone = Siblings(secrets.token_hex(8), 1, 3)
        alone.tell()
        with alone.heard(lambda: None):
            for _ in range(1000):
                alone.tell()

    asyncio.run(talk())


def test_whoever_does_not_listen_for_a_while_holds_up_nobody() -> None:
    async def talk() -> None:
        family = secrets.token_hex(8)
        one, two = Siblings(family, 1, 2), Siblings(family, 2, 2)
        came = asyncio.Event()
        with one.heard(lambda: None), two.heard(came.set):
            for _ in range(10_000):  # more than fits, while nobody reads
                one.tell()
            await asyncio.wait_for(came.wait(), 60)

    asyncio.run(talk())
