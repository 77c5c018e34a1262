"""Tells an engine that hangs from one that is slow: asks it for a sign of life and looks whether it computes.

vLLM answers a call between two steps, and a step may honestly take a minute (a long prompt on few cores). So an
unanswered call alone proves nothing; an unanswered call while nobody uses the processor does. It knows neither vLLM
nor HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

log = logging.getLogger(__name__)

CpuSeconds = Mapping[int, float]  # processor time used so far, by process id

TICKS = 10  # looks per hang_timeout
# Share of one processor below which a process does not compute; one that waits for another uses up to 0.02, polling.
IDLE_SHARE = 0.05
# A single step that computes this many hang_timeouts is taken for an endless loop.
ENDLESS = 20


class Pulse:
    """Asks again and again, `ask` being one round trip through everything that must be alive.

    `busy`: requests are in flight, so a hang would be noticed; an idle engine is asked only once per `hang_timeout`
    (seconds), since the question itself wakes its processes. `cpu_seconds`: what the processes that answer have
    used so far, None where that cannot be known (then only the limit for endless loops holds).
    """

    def __init__(
        self,
        ask: Callable[[], Awaitable[object]],
        busy: Callable[[], bool],
        cpu_seconds: Callable[[], CpuSeconds | None],
        *,
        hang_timeout: float,
    ) -> None:
        self._ask = ask
        self._busy = busy
        self._cpu_seconds = cpu_seconds
        self._hang_timeout = hang_timeout
        self._tick = hang_timeout / TICKS

    async def hung(self) -> str:
        """Return once the engine hangs, with the reason in words."""
        while True:
            asked = asyncio.ensure_future(self._ask())
            if reason := await self._watch(asked):
                asked.cancel()
                return reason
            if asked.exception():
                # Death is noticed elsewhere; a call that fails has been answered.
                log.debug("the engine answered a call with %r", asked.exception())
            for _ in range(TICKS):
                await asyncio.sleep(self._tick)
                if self._busy():
                    break

    async def _watch(self, asked: asyncio.Future[object]) -> str | None:
        # Time is counted in looks, not read from a clock: a machine that slept, or a container that was paused, comes
        # back to one late look and not to an engine that seems to have hung all the while.
        unanswered = idle = 0
        used = self._cpu_seconds()
        while True:
            await asyncio.wait({asked}, timeout=self._tick)
            if asked.done():
                return None
            before, used = used, self._cpu_seconds()
            unanswered += 1
            idle = idle + 1 if computes_nothing(before, used, self._tick) else 0
            if idle >= TICKS:
                return f"no answer for {unanswered * self._tick:.0f} s and no processor time used meanwhile"
            if unanswered >= TICKS * ENDLESS:
                return f"no answer for {unanswered * self._tick:.0f} s, though it computes"


def computes_nothing(before: CpuSeconds | None, after: CpuSeconds | None, seconds: float) -> bool:
    """Whether processor times read `seconds` apart show that no process computed; False when they are not known."""
    if before is None or after is None:
        return False
    return all(used - before.get(process, 0.0) < IDLE_SHARE * seconds for process, used in after.items())


def cpu_seconds_of_group(proc: Path = Path("/proc")) -> CpuSeconds | None:
    """What the other processes of our process group have used so far; None without /proc."""
    own, group, per_second = os.getpid(), os.getpgrp(), os.sysconf("SC_CLK_TCK")
    try:
        processes = [int(entry) for entry in os.listdir(proc) if entry.isdecimal()]
    except OSError:
        return None
    if not processes:
        return None
    result = {}
    for process in processes:
        try:
            # The second field is a name that may hold anything; what we need comes after its last parenthesis.
            fields = (proc / str(process) / "stat").read_bytes().rpartition(b")")[2].split()
        except OSError:
            continue  # it has ended
        if process != own and len(fields) > 12 and int(fields[2]) == group:
            result[process] = (int(fields[11]) + int(fields[12])) / per_second
    return result
