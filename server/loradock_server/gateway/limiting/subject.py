"""One API key or adapter that has limits: what it has taken of each, and what it may not take now.

Pure arithmetic on what it is told, clocks too. It knows no request and no other subject.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from loradock_adapters.rate_limits import NO_LIMITS, RateLimits
from loradock_server.gateway.limiting.bucket import SLACK, Bucket, Charge

DAY_SECONDS = 86_400
BUSY_SECONDS = 1.0
"""When to come back for a place that somebody else has: nobody knows, so soon."""

REQUESTS, TOKENS = "requests", "tokens"


class Now(NamedTuple):  # a tuple: one is made for every request, in a third of the time
    """One moment on two clocks: seconds that only grow, and seconds since 1970, which decide where a day ends."""

    steady: float
    wall: float

    @property
    def day(self) -> int:
        """Days since 1970, UTC."""
        return int(self.wall // DAY_SECONDS)

    @property
    def seconds_left(self) -> float:
        """Of the day."""
        return DAY_SECONDS - self.wall % DAY_SECONDS


@dataclass(frozen=True, slots=True)
class Objection:
    """Why not now: a limit's name in RateLimits, its value, what is taken, what is asked for, when it will fit."""

    limit: str
    value: int
    used: int
    asked: int
    wait: float


class Hold(NamedTuple):
    """What one request took of a subject, until it is over and its tokens are known."""

    subject: Subject
    tokens: Bucket | None
    charge: Charge | None
    day: int
    day_tokens: int


class Subject:
    """`id` is what gateways know it by among themselves. For one event loop.

    `running` are this gateway's requests, `elsewhere` those of others; `used` are the tokens of `day` that all charged.
    """

    __slots__ = ("day", "elsewhere", "id", "limits", "requests", "running", "told_running", "tokens", "unsent", "used")

    def __init__(self, id: str) -> None:
        self.id = id
        self.limits = NO_LIMITS
        self.requests: Bucket | None = None
        self.tokens: Bucket | None = None
        self.running = 0
        self.elsewhere = 0
        self.day = 0
        self.used = 0
        self.unsent = 0
        self.told_running = float("-inf")

    def refresh(self, limits: RateLimits, now: Now) -> None:
        """Let time pass; these are its limits now."""
        self.limits = limits
        self.requests = _refreshed(self.requests, limits.requests_per_minute, now.steady)
        self.tokens = _refreshed(self.tokens, limits.tokens_per_minute, now.steady)
        if limits.tokens_per_day is not None and now.day > self.day:
            self.day, self.used, self.unsent = now.day, 0, 0

    @property
    def counts_tokens(self) -> bool:
        """Whether it matters how many tokens a request takes, after `refresh`."""
        return self.tokens is not None or self.limits.tokens_per_day is not None

    def objection(self, tokens: int, now: Now) -> Objection | None:
        """The limit that is in the way for longest, after `refresh`."""
        limits, found = self.limits, None
        places = limits.max_concurrency
        if places is not None and self.running + self.elsewhere >= places:
            found = Objection("max_concurrency", places, self.running + self.elsewhere, 1, BUSY_SECONDS)
        for name, bucket, amount in (
            ("requests_per_minute", self.requests, 1),
            ("tokens_per_minute", self.tokens, tokens),
        ):
            if bucket is not None and (wait := bucket.wait(amount)) and (found is None or wait > found.wait):
                found = Objection(
                    name, bucket.limit, math.ceil(bucket.content - SLACK), min(amount, bucket.limit), wait
                )
        budget = limits.tokens_per_day
        if budget is not None and self.used >= budget and (found is None or now.seconds_left > found.wait):
            found = Objection("tokens_per_day", budget, self.used, tokens, now.seconds_left)
        return found

    def take(self, tokens: int) -> Hold:
        """Take a request and so many tokens, which `settle` corrects, and a place, which `leave` gives back."""
        self.running += 1
        if self.requests is not None:
            self.requests.take(1)
        charge = None if self.tokens is None else self.tokens.take(tokens)
        day_tokens = 0 if self.limits.tokens_per_day is None else tokens
        self.used += day_tokens
        self.unsent += day_tokens
        return Hold(self, self.tokens, charge, self.day, day_tokens)

    def leave(self) -> None:
        """The request is over."""
        self.running -= 1

    def settle(self, hold: Hold, tokens: int, now: Now) -> None:
        """So many tokens it was in truth; they belong to the day on which they were taken."""
        if hold.tokens is not None and hold.charge is not None:
            hold.tokens.drain(hold.tokens.limit, now.steady)
            hold.tokens.correct(hold.charge, tokens)
        if self.limits.tokens_per_day is not None and hold.day == self.day:
            self.used += tokens - hold.day_tokens
            self.unsent += tokens - hold.day_tokens

    @property
    def day_left(self) -> int:
        """Tokens left of the day's budget; less than 0 where it was overdrawn."""
        return (self.limits.tokens_per_day or 0) - self.used

    def is_idle(self, now: Now) -> bool:
        """Whether a new one would be just the same, after `refresh`."""
        empty = all(bucket is None or not bucket.content for bucket in (self.requests, self.tokens))
        return empty and not self.running and not self.elsewhere and (not self.used or self.day < now.day)


def _refreshed(bucket: Bucket | None, limit: int | None, now: float) -> Bucket | None:
    if limit is None:
        return None
    if bucket is None:
        return Bucket(limit, now)
    bucket.drain(limit, now)
    return bucket
