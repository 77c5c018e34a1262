"""Whether a request may go on, by the limits of its API key and of its adapter: both must let it in, or neither counts.

Dictionaries and arithmetic on one event loop: nothing is awaited, nothing is read. What other gateways take comes in
through `sharing`. A request that was let in counts as one, however it ends; its tokens are charged as estimated and put
right when the engine tells what it cost, after an aborted stream too.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping
from typing import Any

from loradock_adapters.rate_limits import RateLimits
from loradock_server.gateway.errors import OverLimit
from loradock_server.gateway.exchange import Exchange
from loradock_server.gateway.limiting.estimate import estimated_tokens
from loradock_server.gateway.limiting.headers import limit_headers
from loradock_server.gateway.limiting.permit import Permit
from loradock_server.gateway.limiting.refusal import refusal
from loradock_server.gateway.limiting.subject import Now, Objection, Subject
from loradock_server.gateway.usage import Usage
from loradock_server.telemetry.metrics import GatewayMetrics

SETTLE_SECONDS = 30.0
"""After a request's end. An engine that has not told its cost by then never will: the estimate stands."""

KEY, ADAPTER, BASE = "key", "adapter", "base"


class Limiter:
    """Every limit of this gateway. `context` tells how many tokens the engine takes at most, None while unknown.

    `subjects` by id, and those that something happened to since the last exchange with other gateways, are `sharing`'s.
    """

    def __init__(
        self,
        metrics: GatewayMetrics,
        context: Callable[[], int | None] = lambda: None,
        *,
        steady: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._metrics = metrics
        self._context = context
        self._steady = steady
        self._wall = wall
        self._unsettled: dict[str, Permit] = {}
        self._over: dict[str, float] = {}  # of those unsettled that have ended: until when they are waited for
        self.subjects: dict[str, Subject] = {}
        self.touched: set[Subject] = set()

    def now(self) -> Now:
        return Now(self._steady(), self._wall())

    def subject(self, id: str) -> Subject:
        """The state of this subject, a new one if there is none."""
        found = self.subjects.get(id)
        if found is None:
            found = self.subjects[id] = Subject(id)
        return found

    def admit(self, exchange: Exchange, body: Mapping[str, Any], size: int) -> None:
        """Let in a request whose holder and target are known, with a body of `size` bytes; `finish` must follow.

        Either way the exchange has headers for the answer then. Raises OverLimit, having taken nothing.
        """
        subjects = self._concerned(exchange)
        if not subjects:
            return
        now = self.now()
        tokens = 0
        for subject, limits in subjects.items():
            subject.refresh(limits, now)
            if not tokens and subject.counts_tokens:
                tokens = estimated_tokens(exchange.operation, body, size, context=self._context())
        self.touched.update(subjects)
        objections = [(found, one) for one in subjects if (found := one.objection(tokens, now)) is not None]
        if objections:
            exchange.limit_headers = limit_headers(subjects, now, exchange.operation.dialect)
            raise self._refuse(exchange, *max(objections, key=lambda pair: pair[0].wait), now)
        exchange.permit = Permit(exchange.request_id, tuple(one.take(tokens) for one in subjects))
        self._unsettled[exchange.request_id] = exchange.permit
        exchange.limit_headers = limit_headers(subjects, now, exchange.operation.dialect)

    def tell(self, exchange: Exchange) -> None:
        """Headers for an answer to a request that came to grief before it was judged."""
        if exchange.limit_headers or not (subjects := self._concerned(exchange)):
            return
        now = self.now()
        for subject, limits in subjects.items():
            subject.refresh(limits, now)
        self.touched.update(subjects)
        exchange.limit_headers = limit_headers(subjects, now, exchange.operation.dialect)

    def finish(self, exchange: Exchange) -> None:
        """The request is over, let in or not. Tokens cost nothing if no engine got it, or the one that did has died."""
        permit = exchange.permit
        if permit is None or permit.left:
            return
        permit.left = True
        for hold in permit.holds:
            hold.subject.leave()
            self.touched.add(hold.subject)
        if not exchange.sent:
            self._settle(permit, 0)
        elif not permit.settled:
            self._over[permit.request_id] = self._steady() + SETTLE_SECONDS

    def record(self, usage: Usage) -> None:
        """What a request cost, as the engine counted."""
        permit = self._unsettled.get(usage.request_id)
        if permit is not None:
            self._settle(permit, usage.input_tokens + usage.output_tokens)

    def give_up(self) -> None:
        """Wait no longer for the costs of requests that ended long ago."""
        now = self._steady()
        for request_id in [id for id, _ in itertools.takewhile(lambda ended: ended[1] <= now, self._over.items())]:
            del self._over[request_id]
            self._unsettled.pop(request_id, None)

    def forget_idle(self) -> None:
        """Keep no state of those for whom it says nothing any more."""
        now = self.now()
        for id, subject in list(self.subjects.items()):
            subject.refresh(subject.limits, now)
            if subject.is_idle(now) and subject not in self.touched:
                del self.subjects[id]

    def _settle(self, permit: Permit, tokens: int) -> None:
        self._unsettled.pop(permit.request_id, None)
        self._over.pop(permit.request_id, None)
        if permit.settled:
            return
        permit.settled = True
        now = self.now()
        for hold in permit.holds:
            hold.subject.settle(hold, tokens, now)
            self.touched.add(hold.subject)

    def _concerned(self, exchange: Exchange) -> dict[Subject, RateLimits]:
        found = {}
        holder, target = exchange.holder, exchange.target
        if holder is not None and not holder.limits.is_empty:
            found[self.subject(f"{KEY}:{holder.id}")] = holder.limits
        if target is not None and not (limits := target.settings.limits).is_empty:
            found[self.subject(f"{ADAPTER}:{target.ref.name}" if target.ref else BASE)] = limits
        return found

    def _refuse(self, exchange: Exchange, found: Objection, subject: Subject, now: Now) -> OverLimit:
        holder, target = exchange.holder, exchange.target
        assert holder is not None
        assert target is not None
        is_key = subject.id.startswith(f"{KEY}:")
        whose = f"API key {holder.name!r}" if is_key else f"model {(target.ref.name if target.ref else target.model)!r}"
        adapter, _ = self._metrics.adapters.labels(target.ref.name if target.ref else None)
        self._metrics.rate_limited.labels(adapter, f"{KEY if is_key else ADAPTER}_{found.limit}").inc()
        return refusal(whose, is_key, found, now)
