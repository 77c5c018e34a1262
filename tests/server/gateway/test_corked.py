"""An answer's head waits for what follows it, and never longer than a turn of the loop."""

from __future__ import annotations

import asyncio

from loradock_server.gateway.corked import Corked


class Recorded(asyncio.Transport):
    """A transport that only remembers."""

    def __init__(self) -> None:
        super().__init__({"peername": "somebody"})
        self.written: list[bytes] = []
        self.ended: str | None = None

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))

    def is_closing(self) -> bool:
        return self.ended is not None

    def close(self) -> None:
        self.ended = "closed"

    def abort(self) -> None:
        self.ended = "aborted"


def test_head_and_body_are_one_write_and_what_comes_later_goes_at_once() -> None:
    async def talk() -> list[bytes]:
        there = Recorded()
        corked = Corked(there, asyncio.get_running_loop())
        corked.write(b"head ")
        corked.write(b"body")
        corked.write(b"more")
        corked.expect_head()
        corked.write(b"head ")
        corked.write(b"body")
        return there.written

    assert asyncio.run(talk()) == [b"head body", b"more", b"head body"]


def test_a_head_with_nothing_behind_it_leaves_after_this_turn_of_the_loop() -> None:
    async def talk() -> tuple[list[bytes], list[bytes]]:
        there = Recorded()
        corked = Corked(there, asyncio.get_running_loop())
        corked.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        before = list(there.written)
        await asyncio.sleep(0)
        return before, there.written

    assert asyncio.run(talk()) == ([], [b"HTTP/1.1 100 Continue\r\n\r\n"])


def test_closing_sends_what_was_held_and_aborting_drops_it() -> None:
    async def talk(way: str) -> tuple[list[bytes], str | None]:
        there = Recorded()
        corked = Corked(there, asyncio.get_running_loop())
        corked.write(b"head")
        getattr(corked, way)()
        await asyncio.sleep(0)
        return there.written, there.ended

    assert asyncio.run(talk("close")) == ([b"head"], "closed")
    assert asyncio.run(talk("abort")) == ([], "aborted")


def test_everything_else_is_the_transports() -> None:
    async def talk() -> object:
        return Corked(Recorded(), asyncio.get_running_loop()).get_extra_info("peername")

    assert asyncio.run(talk()) == "somebody"
