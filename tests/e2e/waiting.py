"""Waiting for a state, as long as a slow machine may take to reach it: no test here depends on how fast one is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable

import psutil

LONG_ENOUGH_SECONDS = 60.0


def eventually(holds: Callable[[], bool], seconds: float = LONG_ENOUGH_SECONDS) -> None:
    """Return once it holds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(0.1)


async def soon(holds: Callable[[], bool], seconds: float = LONG_ENOUGH_SECONDS) -> None:
    """The same, while other tasks go on. `holds` may block for a moment: it runs in a thread."""
    deadline = time.monotonic() + seconds
    while not await asyncio.to_thread(holds):
        assert time.monotonic() < deadline, "it never came about"
        await asyncio.sleep(0.05)


def until_ended(processes: Iterable[psutil.Process]) -> None:
    """Return once none of them runs any more."""
    left = list(processes)
    # A zombie has ended; who inherits orphans here collects them in its own time.
    eventually(lambda: not any(_runs(process) for process in left))


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
