"""What every answer says of limits: OpenAI's `x-ratelimit-*` headers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from loradock_server.gateway.limiting.bucket import Bucket
from loradock_server.gateway.limiting.subject import REQUESTS, TOKENS, Now, Subject

Headers = tuple[tuple[str, str], ...]

_DAY = "tokens-day"


def limit_headers(subjects: Sequence[Subject], now: Now) -> Headers:
    """Of each kind the limit that leaves least, after `refresh`; nothing of a kind that nobody limits."""
    return (
        *_of_minute(REQUESTS, [one.requests for one in subjects if one.requests is not None]),
        *_of_minute(TOKENS, [one.tokens for one in subjects if one.tokens is not None]),
        *_of_day(subjects, now),
    )


def duration(seconds: float) -> str:
    """As OpenAI writes it: 0s, 12ms, 1.5s, 6m0s, 1h2m0s. Never shorter than it is."""
    ms = max(0, math.ceil(round(seconds * 1000, 3)))
    if 0 < ms < 1000:
        return f"{ms}ms"
    minutes, ms = divmod(ms, 60_000)
    hours, minutes = divmod(minutes, 60)
    whole, part = divmod(ms, 1000)
    text = f"{whole}.{part:03}".rstrip("0") if part else str(whole)
    return f"{f'{hours}h' if hours else ''}{f'{minutes}m' if hours or minutes else ''}{text}s"


def _of_minute(kind: str, buckets: list[Bucket]) -> Headers:
    if not buckets:
        return ()
    tightest = min(buckets, key=lambda bucket: (bucket.left, -bucket.seconds_to_empty))
    return _three(kind, tightest.limit, tightest.left, tightest.seconds_to_empty)


def _of_day(subjects: Sequence[Subject], now: Now) -> Headers:
    budgets = [(budget, one.used) for one in subjects if (budget := one.limits.tokens_per_day) is not None]
    if not budgets:
        return ()
    budget, used = min(budgets, key=lambda pair: pair[0] - pair[1])
    return _three(_DAY, budget, max(0, budget - used), now.seconds_left)


def _three(kind: str, limit: int, left: int, reset: float) -> Headers:
    return (
        (f"x-ratelimit-limit-{kind}", str(limit)),
        (f"x-ratelimit-remaining-{kind}", str(left)),
        (f"x-ratelimit-reset-{kind}", duration(reset)),
    )
