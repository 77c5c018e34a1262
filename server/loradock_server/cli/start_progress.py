"""The engine's start on the terminal: a line for each phase as it begins, with the time that it took here before."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from loradock_adapters.processor import Processor
from loradock_server.engine.launch import LaunchOrder
from loradock_server.engine.start_log import LogFile
from loradock_server.engine.start_phases import PHASES, PhaseWatch, StartTimes, announced, configuration, lasting

POLL_SECONDS = 0.25


async def follow_start(order: LaunchOrder, log: LogFile, say: Callable[[str], None]) -> None:
    """Return when the engine serves; `say` gets the lines. A start that fails is followed by the next one."""
    times, key = StartTimes.of(order), configuration(order, Processor.here())
    last = await asyncio.to_thread(times.last, key)
    if last:
        rest = "" if len(last) == len(PHASES) else ", without the compiling"
        say(f"engine: {PHASES[0].words} (all of the last start took {sum(last.values()):.0f} s{rest})")
    watch, place = PhaseWatch(), log.place
    while not watch.served:
        if log.place.start != place.start:
            watch, place = PhaseWatch(), log.place
        data, place = await asyncio.to_thread(log.since, place)
        for phase in watch.feed(data, time.monotonic()):
            say(f"engine: {announced(phase, last, watch.seconds, compiles=order.compile)}")
        if not watch.served:
            await asyncio.sleep(POLL_SECONDS)
    if set(watch.seconds) >= {phase.name for phase in PHASES}:
        await asyncio.to_thread(times.remember, key, lasting(watch.seconds, compiled=order.compile and not last))
