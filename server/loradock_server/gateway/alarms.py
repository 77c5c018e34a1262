"""Calls that are due equally long after each was asked for, and hardly ever happen: one timer of the loop for all.

A timer each costs a request several times as much. For one event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Alarm:
    """One call to come; cancelled like a timer of the loop."""

    __slots__ = ("_waiting", "at", "call")

    def __init__(self, at: float, call: Callable[[], None], waiting: dict[Alarm, None]) -> None:
        self.at = at
        self.call = call
        self._waiting = waiting

    def cancel(self) -> None:
        """It is not to happen any more, or has happened already."""
        self._waiting.pop(self, None)
        self.call = _nothing  # whoever holds the alarm is mostly held by the call: two that would keep each other


def _nothing() -> None:
    pass


class Alarms:
    """All that are due after so many seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._waiting: dict[Alarm, None] = {}  # in the order in which they are due
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self, call: Callable[[], None]) -> Alarm:
        """Have it called later."""
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        alarm = Alarm(loop.time() + self._seconds, call, self._waiting)
        self._waiting[alarm] = None
        if self._timer is None:
            self._timer = loop.call_at(alarm.at, self._ring)
        return alarm

    def _ring(self) -> None:
        # Most of those that this timer was set for were cancelled; it goes on to the first that was not.
        self._timer = None
        assert self._loop is not None
        now = self._loop.time()
        while self._waiting:
            alarm = next(iter(self._waiting))
            if alarm.at > now:
                self._timer = self._loop.call_at(alarm.at, self._ring)
                return
            del self._waiting[alarm]
            alarm.call()
