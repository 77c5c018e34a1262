"""An engine on a clock of its own, for tests of admission: time passes only when nothing is left to do.

Faithful in what admission depends on: a request produces its tokens one by one while it runs, holds its seat until its
last one, and may be cut off by its client at any moment, waiting or running.
"""

from __future__ import annotations

import asyncio
import math
import selectors
from collections import Counter
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

from loradock_server.engine.admission import (
    TICK_SECONDS,
    Admission,
    AdmissionError,
    Meter,
    Reading,
    Rules,
    Ticket,
)

OUTPUT_COUNTS = 2
STEP_SECONDS = 0.05  # one output token of every running request


class FakeClockLoop(asyncio.SelectorEventLoop):
    """An event loop whose time jumps to the next timer as soon as nothing else is ready."""

    def __init__(self) -> None:
        self.now = 1000.0
        super().__init__(_JumpingSelector(self))

    def time(self) -> float:
        return self.now


class _JumpingSelector(selectors.SelectSelector):
    loop: FakeClockLoop

    def __init__(self, loop: FakeClockLoop) -> None:
        super().__init__()
        self.loop = loop

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            raise AssertionError("everybody waits and nothing will ever happen: a lost wake-up")
        if timeout > 0:
            # A hair more, so that rounding cannot leave the timer just ahead for ever.
            self.loop.now += timeout + 1e-6
        return super().select(0)


def simulate(main: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=FakeClockLoop) as runner:
        runner.run(main)


@dataclass(slots=True, eq=False)
class Job:
    """One request. Times are seconds of the fake clock; `seconds` is how long its answer takes."""

    adapter: str | None
    tokens: int
    number: int
    arrived: float
    admitted: float | None = None
    left: float | None = None
    refused: AdmissionError | None = None
    ticket: Ticket | None = None
    meter: Meter = lambda: Reading(0, 0)

    @property
    def waited(self) -> float:
        assert self.admitted is not None
        return self.admitted - self.arrived


def cost(reading: Reading) -> int:
    """As the module's docstring promises it, not as the code computes it."""
    return reading.input_tokens + OUTPUT_COUNTS * reading.output_tokens


class World:
    """Runs jobs through an Admission and checks at every admission what must always hold."""

    def __init__(
        self,
        rules: Rules | None = None,
        *,
        places: int = 2,
        seats: int = 8,
        prompt_tokens: int = 10,
        weights: Mapping[str | None, float] | None = None,
    ) -> None:
        self.weights = weights or {}
        self.rules = rules or Rules()
        self.places, self.seats, self.prompt_tokens = places, seats, prompt_tokens
        self.admission = Admission(self.rules, places=places, seats=seats)
        self.jobs: list[Job] = []
        self.running: list[Job] = []
        self._finished: Counter[str | None] = Counter()

    async def serve(self, adapter: str | None, tokens: int) -> Job:
        """One request from its arrival to its end."""
        loop = asyncio.get_running_loop()
        job = Job(adapter, tokens, len(self.jobs), loop.time())
        self.jobs.append(job)

        def meter() -> Reading:
            if job.admitted is None:
                return Reading(0, 0)
            return Reading(self.prompt_tokens, min(tokens, int((loop.time() - job.admitted) / STEP_SECONDS)))

        job.meter = meter
        try:
            with self.admission.line_up(adapter, meter, self.weights.get(adapter, 1.0)) as ticket:
                job.ticket = ticket
                await ticket.turn()
                self._note_admitted(job, ticket.arrived + ticket.waited_seconds)
                try:
                    await asyncio.sleep(tokens * STEP_SECONDS)
                finally:
                    self.running.remove(job)
                    self._finished[adapter] += cost(meter())
        except AdmissionError as error:
            job.refused = error
        finally:
            job.left = loop.time()
        return job

    def _note_admitted(self, job: Job, when: float) -> None:
        job.admitted = when
        ahead = [o for o in self.jobs if o.adapter == job.adapter and o.number < job.number]
        # By the tickets: those admitted in the same instant may wake up in any order.
        assert all(o.left or (o.ticket and o.ticket.admitted) for o in ahead), "overtaken inside its own line"
        self.running.append(job)
        assert len(self.running) <= self.seats
        assert len({o.adapter for o in self.running if o.adapter}) <= self.places

    def used(self, adapter: str | None) -> int:
        """The service that an adapter has had until now."""
        return self._finished[adapter] + sum(cost(job.meter()) for job in self.running if job.adapter == adapter)

    async def keep_busy(self, adapter: str | None, tokens: int, *, streams: int, until: float) -> None:
        """`streams` clients that send their next request as soon as they are answered, out of step with each other."""

        async def stream(number: int) -> None:
            loop = asyncio.get_running_loop()
            await asyncio.sleep(number * tokens * STEP_SECONDS / streams)
            while loop.time() < until:
                await self.serve(adapter, tokens)

        await asyncio.gather(*(stream(number) for number in range(streams)))

    def head_since(self, job: Job) -> float:
        """When everybody before `job` in its line had been admitted or had left."""
        ahead = [o for o in self.jobs if o.adapter == job.adapter and o.number < job.number]
        return max([job.arrived, *(o.admitted or o.left or job.arrived for o in ahead)])

    def worst_wait(self, job: Job, longest_tokens: int) -> float:
        """The bound of the module's docstring, from `head_since` on."""
        then = self.head_since(job)
        others = {
            o.adapter
            for o in self.jobs
            if o.adapter != job.adapter and o.arrived <= then and (o.admitted or o.left or math.inf) >= then
        }
        longest = longest_tokens * STEP_SECONDS
        rounds = math.ceil((len(others) + 1) / self.places)
        turn = self.rules.quantum_seconds + longest + TICK_SECONDS
        return self.rules.patience + rounds * turn + 2 * longest + TICK_SECONDS
