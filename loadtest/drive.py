"""Runs a workload against a client, closed loop or open, until a limit is reached or somebody says stop.

Closed loop: so many workers, each sends its next request when its last is answered. Open loop: requests leave
when they are due, however many are under way, and are timed from when they were due, so that a slow server
cannot slow the clock. Knows nothing of HTTP and sums nothing up.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from loadtest.client import Generation, Outcome
from loadtest.workload import PlannedRequest, Workload


class Chatter(Protocol):
    """What sends one request: loadtest.client.Client."""

    async def chat(self, model: str, prompt: str, wanted: Generation, due: float | None = None) -> Outcome: ...


@dataclass(frozen=True, slots=True)
class Limits:
    """When to send no more; whichever comes first. What is under way then is still waited for."""

    duration_seconds: float | None = None
    requests: int | None = None


@dataclass(slots=True)
class Run:
    """One run in the making: finished requests, and how long it took from the start to the last of them."""

    outcomes: list[Outcome] = field(default_factory=list)
    wall_seconds: float = 0.0
    cut_short: int = 0


async def drive(
    client: Chatter,
    workload: Workload,
    wanted: Generation,
    limits: Limits,
    *,
    concurrency: int,
    stop: asyncio.Event,
    on_outcome: Callable[[Run], None] = lambda run: None,
) -> Run:
    """Send until a limit. A set `stop` ends it at once; what is under way is dropped and counted so."""
    run, started = Run(), time.perf_counter()

    async def send(request: PlannedRequest) -> None:
        due = None if request.at_seconds is None else started + request.at_seconds
        outcome = await client.chat(request.model, request.prompt, wanted, due)
        run.outcomes.append(outcome)
        run.wall_seconds = time.perf_counter() - started
        on_outcome(run)

    planned = _bounded(workload, limits, started)
    if workload.arrivals is None:
        await _closed_loop(planned, send, concurrency, stop, run)
    else:
        await _open_loop(planned, send, started, stop, run)
    return run


def _bounded(workload: Workload, limits: Limits, started: float) -> Iterator[PlannedRequest]:
    for request in workload.requests():
        if limits.requests is not None and request.index >= limits.requests:
            return
        if limits.duration_seconds is not None:
            at = time.perf_counter() - started if request.at_seconds is None else request.at_seconds
            if at >= limits.duration_seconds:
                return
        yield request


Send = Callable[[PlannedRequest], Coroutine[None, None, None]]


async def _closed_loop(
    planned: Iterator[PlannedRequest], send: Send, concurrency: int, stop: asyncio.Event, run: Run
) -> None:
    async def work() -> None:
        for request in planned:
            await send(request)

    await _until_stopped({asyncio.create_task(work()) for _ in range(concurrency)}, stop, run)


async def _open_loop(
    planned: Iterator[PlannedRequest], send: Send, started: float, stop: asyncio.Event, run: Run
) -> None:
    tasks: set[asyncio.Task[None]] = set()
    for request in planned:
        wait = started + (request.at_seconds or 0.0) - time.perf_counter()
        if wait > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), wait)
        if stop.is_set():
            break
        tasks.add(asyncio.create_task(send(request)))
    await _until_stopped(tasks, stop, run)


async def _until_stopped(tasks: set[asyncio.Task[None]], stop: asyncio.Event, run: Run) -> None:
    """Wait for every task or for `stop`, then cancel what is left. A task's own exception comes out here."""
    stopped = asyncio.create_task(stop.wait())
    left: set[asyncio.Task[Any]] = set(tasks)
    try:
        while left and not stopped.done():
            finished, _ = await asyncio.wait(left | {stopped}, return_when=asyncio.FIRST_COMPLETED)
            for task in finished - {stopped}:
                task.result()
            left -= finished
    finally:
        run.cut_short = len(left)
        for task in (*left, stopped):
            task.cancel()
        await asyncio.gather(*left, stopped, return_exceptions=True)
