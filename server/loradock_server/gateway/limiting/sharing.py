"""What gateways tell each other of limits: each tells a common store what it took, and hears what all took together.

Beside the requests, every EXCHANGE_SECONDS, and only of subjects that something happened to. Between two exchanges a
gateway judges by what it last heard and what it took itself since. So together N of them can let in more than a limit:
at most what N - 1 let in during one exchange. The store counts that too, and nothing is let in until it has drained.
While the store cannot be reached each judges by its own; no request ever waits for it or fails by it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from typing import Protocol, TypeVar

from loradock_adapters.errors import LoraDockError
from loradock_adapters.registry import BucketTaken, DayTaken, Running, Together
from loradock_adapters.registry.limit_counters import RUNNING_SECONDS
from loradock_server.gateway.limiting.bucket import Bucket
from loradock_server.gateway.limiting.limiter import Limiter
from loradock_server.gateway.limiting.subject import REQUESTS, TOKENS, Now, Subject

EXCHANGE_SECONDS = 0.5
CLOSE_SECONDS = 5.0

_RENEW_SECONDS = RUNNING_SECONDS / 4  # of requests that run on while nothing else happens
_TIDY_SECONDS = 600.0
_ANSWER_SECONDS = 0.25  # a store that takes longer was not asked at once

T = TypeVar("T")
_log = logging.getLogger(__name__)


class RateStore(Protocol):
    """Where buckets and running requests of all gateways come together; called in threads. Raises LoraDockError."""

    def exchange(self, gateway: str, taken: Collection[BucketTaken], running: Collection[Running]) -> Together: ...
    def close(self) -> None: ...


class DayStore(Protocol):
    """Where the tokens of days are kept; called in threads. Raises LoraDockError."""

    def charge(self, taken: Collection[DayTaken]) -> Mapping[tuple[str, int], int]: ...
    def charged(self, day: int) -> Mapping[str, int]: ...
    def tidy(self, day: int) -> None: ...


class Sharing:
    """Keeps one gateway's limiter in step with the stores."""

    def __init__(self, limiter: Limiter, rates: RateStore, days: DayStore, gateway_id: str) -> None:
        self._limiter = limiter
        self._rates = rates
        self._days = days
        self._gateway_id = gateway_id
        self._tidy_at = limiter.now().steady + _TIDY_SECONDS
        self._failing: set[str] = set()
        self._under_way: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Learn what was used of this day before. While that cannot be read, the day begins anew."""
        today = self._limiter.now().day
        used = await self._try("the registry", lambda: self._days.charged(today))
        for id, tokens in (used or {}).items():
            subject = self._limiter.subject(id)
            subject.day, subject.used = today, tokens

    async def follow(self) -> None:
        """Exchange until cancelled."""
        while True:
            await asyncio.sleep(EXCHANGE_SECONDS)
            # Not cancelled in the middle: what is on its way to a store would be told by nobody.
            self._under_way = asyncio.create_task(self.exchange())
            await asyncio.shield(self._under_way)

    async def close(self) -> None:
        """Tell what has not been told yet; at most CLOSE_SECONDS."""
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                if self._under_way is not None:
                    await asyncio.wait([self._under_way])
                await self.exchange()
        except TimeoutError:
            _log.warning("the last that was taken of limits could not be told within %s s", CLOSE_SECONDS)
        finally:
            self._rates.close()

    async def exchange(self) -> None:
        """Once, now."""
        limiter = self._limiter
        now = limiter.now()
        limiter.give_up()
        touched = [*limiter.touched, *self._to_renew(now)]
        limiter.touched.clear()
        for subject in touched:
            subject.refresh(subject.limits, now)
        await asyncio.gather(self._exchange_rates(touched, now), self._exchange_days(touched))
        if now.steady >= self._tidy_at:
            self._tidy_at = now.steady + _TIDY_SECONDS
            limiter.forget_idle()
            await self._try("the registry", lambda: self._days.tidy(now.day))

    def _to_renew(self, now: Now) -> list[Subject]:
        renew_before = now.steady - _RENEW_SECONDS
        return [
            one
            for one in self._limiter.subjects.values()
            if one not in self._limiter.touched and (one.elsewhere or (one.running and one.told_running < renew_before))
        ]

    async def _exchange_rates(self, touched: list[Subject], now: Now) -> None:
        buckets = {(one.id, kind): bucket for one in touched for kind, bucket in _buckets(one)}
        counted = {one.id: one for one in touched if one.limits.max_concurrency is not None}
        if not buckets and not counted:
            return
        taken = [BucketTaken(*name, bucket.send(), bucket.per_second) for name, bucket in buckets.items()]
        running = [Running(one.id, one.running) for one in counted.values()]
        for one in counted.values():
            one.told_running = now.steady
        together = await self._try(
            "the store of limits", lambda: self._rates.exchange(self._gateway_id, taken, running)
        )
        if together is None:
            for told in taken:
                buckets[told.subject, told.kind].unsend(told.taken)
            self._limiter.touched.update(touched)
            return
        steady = self._limiter.now().steady
        # It was so when the store was asked, or a little later: whoever waits as he was told is let in.
        since = min(steady - now.steady, _ANSWER_SECONDS)
        for name, content in together.buckets.items():
            buckets[name].drain(buckets[name].limit, steady)
            buckets[name].hear(content, since)
        for id, elsewhere in together.elsewhere.items():
            counted[id].elsewhere = elsewhere

    async def _exchange_days(self, touched: list[Subject]) -> None:
        subjects = {one.id: one for one in touched if one.limits.tokens_per_day is not None}
        if not subjects:
            return
        taken = [DayTaken(one.id, one.day, one.unsent) for one in subjects.values()]
        for one in subjects.values():
            one.unsent = 0
        totals = await self._try("the registry", lambda: self._days.charge(taken))
        for told in taken:
            subject = subjects[told.subject]
            if subject.day != told.day:
                continue  # it is over
            if totals is None:
                subject.unsent += told.tokens
                self._limiter.touched.add(subject)
            else:
                subject.used = totals[told.subject, told.day] + subject.unsent

    async def _try(self, what: str, call: Callable[[], T]) -> T | None:
        """None when it failed, which is said once until it works again."""
        try:
            result = await asyncio.to_thread(call)
        except LoraDockError as error:
            if what not in self._failing:
                _log.warning("%s cannot be asked; limits count what this gateway sees for now: %s", what, error)
            self._failing.add(what)
            return None
        if what in self._failing:
            _log.info("%s can be asked again", what)
            self._failing.discard(what)
        return result


def _buckets(subject: Subject) -> list[tuple[str, Bucket]]:
    both = ((REQUESTS, subject.requests), (TOKENS, subject.tokens))
    return [(kind, bucket) for kind, bucket in both if bucket is not None]
