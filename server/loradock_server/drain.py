"""Going away politely: no new work, and waiting for what is being answered. It knows no HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class Drain:
    """Counts requests being answered; after `begin()` none is added. One event loop only."""

    def __init__(self) -> None:
        self.draining = False
        self.in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def begin(self) -> None:
        """From now on nothing new is welcome."""
        self.draining = True

    @contextmanager
    def answering(self) -> Iterator[bool]:
        """Hold while a request is answered; yields False when it must be turned away."""
        welcome = self.enter()
        try:
            yield welcome
        finally:
            if welcome:
                self.leave()

    def enter(self) -> bool:
        """`answering` for every request: False when it must be turned away, else `leave` must follow."""
        if self.draining:
            return False
        self.in_flight += 1
        if self.in_flight == 1:
            self._idle.clear()
        return True

    def leave(self) -> None:
        """It is answered."""
        self.in_flight -= 1
        if self.in_flight == 0:
            self._idle.set()

    async def idle(self, timeout_seconds: float) -> bool:
        """Wait until nothing is being answered; False if that took longer than `timeout_seconds`."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True
