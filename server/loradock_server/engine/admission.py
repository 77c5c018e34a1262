"""Who may run now: fair admission of requests to an engine that can run only so many adapters at a time.

vLLM passes over every waiting request whose adapter does not fit beside the `max_loras` that run, so a hot set of just
that many adapters starves all others for ever. Here no request reaches vLLM before it can run there. It knows adapters
by name, requests by a meter that reads what they have cost so far, and the event loop's clock; neither HTTP nor vLLM.

**Places and seats.** An adapter runs only while it holds one of `places` places (the base model needs none); a request
runs only while it holds one of `seats` seats. An adapter without requests gives its place back at once. Requests of
one adapter are admitted in the order in which they came.

**Order.** Every adapter has a counter of its service, as in S-LoRA's VTC: an input token counts 1, an output token 2,
charged as they are produced (read whenever a decision hangs on it, settled when the request ends), divided by the
adapter's weight, which is its priority. A free seat goes to the adapter with the least service. When adapters wait for
a place, as many of the running ones, those with the most service, are drained: they get no new seats and lose the place
when their last request ends. Drained is only an adapter that has used its quantum (so many tokens, or so many seconds)
and has had no less service than the one that waits. Who comes back from idling is lifted to the least service among
those that run or wait; whoever comes with an empty line is lifted to within `credit` of the most. So idling saves up no
claim, and using little saves up one with a limit.

**Bound.** A request at the head of its adapter's line that has waited for `patience` seconds goes before all that have
waited less, whatever the counters say. Hence it is admitted, counted from when it became the head, after at most

    patience + ceil((w + 1) / places) * (quantum_seconds + L + TICK_SECONDS) + 2 * L + TICK_SECONDS

seconds, where w is the number of other adapters that were waiting then and L the longest time for which a request holds
its seat, given seats > places. An adapter that alone waits for a place while seats are free, and that has had no more
service than one of those that run, does not need the patience: quantum_seconds + L + TICK_SECONDS.
Proof: from then on only the w can be ahead, and each at most once, since an admission makes its adapter's wait start
anew. Every place that is wanted is under drain within a quantum of its taking and free L later, so `places` adapters
get one in each such span; one more L for an adapter that itself has to drain first, one more for all seats to have come
free once.

**Shares.** Of two adapters that always have requests waiting, neither gets ahead of the other, each in service by its
weight, by more than one quantum plus what its running requests may still produce, as long as `patience` is not reached.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple, Self

INPUT_WEIGHT = 1
OUTPUT_WEIGHT = 2
# How often counters and quanta are looked at while somebody waits.
TICK_SECONDS = 0.1
# Counters are not read more often than this, however many requests come and go.
MEASURE_SECONDS = 0.05
LONGEST_RETRY_SECONDS = 60
WEIGHTS = {"low": 0.25, "normal": 1.0, "high": 4.0}
"""What a priority is worth: an adapter's service is divided by it before it is held against the adapter."""


class AdmissionError(Exception):
    """A line is full. `status`, `code` and `retry_after` (seconds) are what the HTTP answer says."""

    status = 503
    code = "queue_full"

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class QueueFull(AdmissionError):
    """All lines together are as long as allowed; 503."""


class AdapterQueueFull(AdmissionError):
    """This adapter's line is as long as allowed; 429."""

    status = 429
    code = "adapter_queue_full"


class Reading(NamedTuple):
    """What a request has cost so far, in tokens; `over` when the engine has nothing left to do for it."""

    input_tokens: int
    output_tokens: int
    over: bool = False

    @property
    def service(self) -> int:
        return INPUT_WEIGHT * self.input_tokens + OUTPUT_WEIGHT * self.output_tokens


Meter = Callable[[], Reading]


@dataclass(frozen=True, slots=True)
class Rules:
    """What an operator may tune. `quantum_tokens` and `credit` are weighted tokens (an output token counts 2)."""

    max_waiting: int = 1000
    max_waiting_per_adapter: int = 200
    quantum_tokens: int = 1000
    quantum_seconds: float = 2.0
    patience: float = 10.0

    @property
    def credit(self) -> int:
        return 4 * self.quantum_tokens


@dataclass(frozen=True, slots=True)
class Places:
    """Who has one of `limit` places at this moment, and who waits for one, by adapter id.

    `waiting`: requests in line for whatever reason, the base model's too.
    """

    limit: int
    taken: frozenset[str]
    wanted: frozenset[str]
    waiting: int = 0


class Ticket:
    """One request's claim: a context manager that gives everything back, wherever the request had got to."""

    def __init__(self, admission: Admission, line: _Line, meter: Meter, now: float) -> None:
        self._admission = admission
        self._line = line
        self.meter = meter
        self.charged = 0
        self.arrived = now
        self.settled: float | None = None  # when the waiting ended, one way or the other
        self._turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def admitted(self) -> bool:
        return self._turn.done()

    @property
    def waited_seconds(self) -> float:
        """How long this request waited, or has been waiting."""
        end = asyncio.get_running_loop().time() if self.settled is None else self.settled
        return end - self.arrived

    async def turn(self) -> None:
        """Return once the request may run. Safe to cancel."""
        # Shielded: a waiter that is being cancelled may still be admitted before it leaves.
        await asyncio.shield(self._turn)

    def admit(self, now: float) -> None:
        self.settled = now
        self._turn.set_result(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._admission.leave(self, self._line)


class _Line:
    """One adapter's requests, waiting and running; `adapter` is None for the base model."""

    def __init__(self, adapter: str | None, now: float) -> None:
        self.adapter = adapter
        self.service = 0.0
        self.weight = 1.0
        self.waiting: dict[Ticket, None] = {}  # in order of arrival
        self.running: dict[Ticket, None] = {}
        self.placed_at: float | None = None
        self.service_at_place = 0.0
        self.draining = False
        self.last_admitted = now

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.running)

    @property
    def head_since(self) -> float:
        """When the first request in the line began to wait as the first."""
        return max(next(iter(self.waiting)).arrived, self.last_admitted)

    def measure(self, ticket: Ticket) -> Reading:
        reading = ticket.meter()
        self.service += (reading.service - ticket.charged) / self.weight
        ticket.charged = reading.service
        return reading


class Admission:
    """Lines of waiting requests, and the rule by which they move up; see the module's docstring.

    For one event loop. All state changes happen in synchronous methods, so there is no moment in which a seat is
    neither free nor held.
    """

    def __init__(self, rules: Rules, *, places: int, seats: int) -> None:
        if seats <= places:
            raise ValueError(f"{seats} seats for {places} places: the bound on waiting needs at least {places + 1}")
        self._rules = rules
        self._places = places
        self._seats = seats
        self._lines: dict[str | None, _Line] = {}
        self._drains: list[_Line] = []  # oldest first
        self._measured = -math.inf
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        return sum(len(line.waiting) for line in self._lines.values())

    @property
    def running(self) -> int:
        return sum(len(line.running) for line in self._lines.values())

    def places(self) -> Places:
        lines = [line for line in self._lines.values() if line.adapter is not None]
        return Places(
            self._places,
            taken=frozenset(str(line.adapter) for line in lines if line.placed_at is not None),
            wanted=frozenset(str(line.adapter) for line in lines if line.waiting and self._needs_place(line)),
            waiting=sum(self.waiting_by_adapter().values()),
        )

    def waiting_by_adapter(self) -> dict[str | None, int]:
        """The length of every line that is not empty; None is the base model."""
        return {adapter: len(line.waiting) for adapter, line in self._lines.items() if line.waiting}

    def line_up(self, adapter: str | None, meter: Meter, weight: float = 1.0) -> Ticket:
        """Claim a seat for one request of `adapter` (None: the base model); to be used as a context manager.

        `meter` reads what the request has cost so far, `weight` is the adapter's from now on. The ticket may be
        admitted already. Raises AdapterQueueFull or QueueFull when it would have to wait and the line is full.
        """
        now = _now()
        line = self._lines.get(adapter)
        if line is None:
            line = self._lines[adapter] = _Line(adapter, now)
        line.weight = weight
        if not line.waiting:
            self._measure(now)
            self._lift(line)
        ticket = Ticket(self, line, meter, now)
        line.waiting[ticket] = None
        self._move_up()
        if not ticket.admitted:
            try:
                self._refuse_when_full(line, now)
            except AdmissionError:
                self.leave(ticket, line)
                raise
        return ticket

    def leave(self, ticket: Ticket, line: _Line) -> None:
        """Take a ticket out of its line or off its seat; nothing if it has left."""
        if ticket.settled is None:
            ticket.settled = _now()
        if ticket in line.waiting:
            del line.waiting[ticket]
        elif ticket in line.running:
            self._vacate(ticket, line)
        else:
            return
        self._move_up()

    # --- The rule ---

    def _lift(self, line: _Line) -> None:
        """Limit the claim of one that comes with an empty line."""
        others = [other.service for other in self._lines.values() if other is not line and other.busy]
        if others:
            least = max(others) - self._rules.credit
            line.service = max(line.service, least if line.busy else max(least, min(others)))

    def _move_up(self) -> None:
        """Bring seats, places and drains in line with who waits. Called after every change, and by the timer."""
        now = _now()
        if any(line.waiting for line in self._lines.values()):
            self._measure(now)
        self._free_places()
        self._admit(now)
        self._choose_drains(now)
        self._admit(now)  # a drain that was called off, or one that had nothing left to drain
        self._forget_idle()
        self._arm()

    def _measure(self, now: float) -> None:
        if now - self._measured < MEASURE_SECONDS:
            return
        self._measured = now
        for line in self._lines.values():
            for ticket in list(line.running):
                # A client that reads slowly holds its own answer back, but no seat.
                if line.measure(ticket).over:
                    del line.running[ticket]

    def _vacate(self, ticket: Ticket, line: _Line) -> None:
        line.measure(ticket)
        del line.running[ticket]

    def _free_places(self) -> None:
        for line in self._lines.values():
            if line.placed_at is not None and not line.running and (line.draining or not line.waiting):
                self._unplace(line)

    def _unplace(self, line: _Line) -> None:
        line.placed_at = None
        if line.draining:
            line.draining = False
            self._drains.remove(line)

    def _admit(self, now: float) -> None:
        free_seats = self._seats - self.running
        free_places = self._places - self._placed
        while free_seats > 0:
            able = [line for line in self._lines.values() if line.waiting and self._may_run(line, free_places)]
            if not able:
                return
            line = min(able, key=lambda line: self._rank(line, now))
            if line.adapter is not None and line.placed_at is None:
                line.placed_at = now
                line.service_at_place = line.service
                free_places -= 1
            ticket = next(iter(line.waiting))
            del line.waiting[ticket]
            line.running[ticket] = None
            line.last_admitted = now
            ticket.admit(now)
            free_seats -= 1

    def _choose_drains(self, now: float) -> None:
        """Drain as many adapters as wait for a place that is not free, no more."""
        free_places = self._places - self._placed
        wanting = [line for line in self._lines.values() if line.waiting and self._needs_place(line)]
        wanting = sorted(wanting, key=lambda line: self._rank(line, now))[free_places:]
        while len(self._drains) > len(wanting):
            # The newest is called off: those that wait longest count on the oldest.
            self._drains.pop().draining = False
        for candidate in wanting[len(self._drains) :]:
            overdue = self._overdue(candidate, now)
            able = [
                line
                for line in self._lines.values()
                if line.placed_at is not None
                and not line.draining
                and (overdue or line.service >= candidate.service)
                and self._quantum_used(line, now)
            ]
            if not able:
                continue
            victim = max(able, key=lambda line: line.service)
            victim.draining = True
            self._drains.append(victim)
            if not victim.running:
                self._unplace(victim)

    def _forget_idle(self) -> None:
        """An idle adapter's counter matters only while it is above that of somebody who waits."""
        floor = min((line.service for line in self._lines.values() if line.waiting), default=math.inf)
        for adapter, line in list(self._lines.items()):
            if not line.busy and line.service <= floor:
                del self._lines[adapter]

    def _arm(self) -> None:
        waits = any(line.waiting for line in self._lines.values())
        if waits and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(TICK_SECONDS, self._tick)
        elif not waits and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        self._timer = None
        self._move_up()

    # --- What the rule asks ---

    @property
    def _placed(self) -> int:
        return sum(line.placed_at is not None for line in self._lines.values())

    @staticmethod
    def _needs_place(line: _Line) -> bool:
        return line.adapter is not None and line.placed_at is None

    def _may_run(self, line: _Line, free_places: int) -> bool:
        return free_places > 0 if self._needs_place(line) else not line.draining

    def _overdue(self, line: _Line, now: float) -> bool:
        return now - line.head_since >= self._rules.patience

    def _rank(self, line: _Line, now: float) -> tuple[bool, float, int, float]:
        """Smallest first: the overdue by age, then the others by service, equal ones by how few they run."""
        if self._overdue(line, now):
            return False, line.head_since, 0, 0
        return True, line.service, len(line.running), line.head_since

    def _quantum_used(self, line: _Line, now: float) -> bool:
        assert line.placed_at is not None
        return (
            now - line.placed_at >= self._rules.quantum_seconds
            or line.service - line.service_at_place >= self._rules.quantum_tokens
        )

    def _refuse_when_full(self, line: _Line, now: float) -> None:
        """Raises if the newest request of `line` is one too many."""
        limit = self._rules.max_waiting_per_adapter
        if len(line.waiting) > limit:
            raise AdapterQueueFull(
                f"{limit} requests already wait for {line.adapter or 'the base model'}, the limit; retry, "
                "or raise LORADOCK_MAX_WAITING_PER_ADAPTER",
                _retry_after(now - next(iter(line.waiting)).arrived),
            )
        limit = self._rules.max_waiting
        if self.waiting > limit:
            oldest = min(next(iter(other.waiting)).arrived for other in self._lines.values() if other.waiting)
            raise QueueFull(
                f"{limit} requests already wait in this engine, the limit; retry, or raise LORADOCK_MAX_WAITING",
                _retry_after(now - oldest),
            )


def _now() -> float:
    return asyncio.get_running_loop().time()


def _retry_after(waited_seconds: float) -> int:
    """Who came first has waited this long, so an earlier retry would hardly fare better."""
    return max(1, min(LONGEST_RETRY_SECONDS, math.ceil(waited_seconds)))
