"""What every answer says of limits: OpenAI's `x-ratelimit-*` headers."""

from __future__ import annotations

import math
from collections.abc import Iterable

from loradock_server.gateway.limiting.bucket import Bucket
from loradock_server.gateway.limiting.subject import REQUESTS, TOKENS, Now, Subject

Headers = tuple[tuple[str, str], ...]

_DAY = "tokens-day"
# Put together once: this is done for every answer.
_NAMES = {
    kind: (f"x-ratelimit-limit-{kind}", f"x-ratelimit-remaining-{kind}", f"x-ratelimit-reset-{kind}")
    for kind in (REQUESTS, TOKENS, _DAY)
}


def limit_headers(subjects: Iterable[Subject], now: Now) -> Headers:
    """Of each kind the limit that leaves least, after `refresh`; nothing of a kind that nobody limits."""
    requests: Bucket | None = None
    tokens: Bucket | None = None
    day: Subject | None = None
    for one in subjects:
        requests = _tighter(requests, one.requests)
        tokens = _tighter(tokens, one.tokens)
        if one.limits.tokens_per_day is not None and (day is None or one.day_left < day.day_left):
            day = one
    headers: Headers = ()
    if requests is not None:
        headers = _three(REQUESTS, requests.limit, requests.left, requests.seconds_to_empty)
    if tokens is not None:
        headers += _three(TOKENS, tokens.limit, tokens.left, tokens.seconds_to_empty)
    if day is not None and (budget := day.limits.tokens_per_day) is not None:
        headers += _three(_DAY, budget, max(0, day.day_left), now.seconds_left)
    return headers


def duration(seconds: float) -> str:
    """As OpenAI writes it: 0s, 12ms, 1.5s, 6m0s, 1h2m0s. Never shorter than it is by more than a nanosecond."""
    ms = math.ceil(seconds * 1000 - 1e-6)
    if ms < 1000:
        return f"{ms}ms" if ms > 0 else "0s"
    minutes, ms = divmod(ms, 60_000)
    text = str(ms // 1000) if ms % 1000 == 0 else str(ms / 1000)
    if not minutes:
        return f"{text}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{text}s" if hours else f"{minutes}m{text}s"


def _tighter(one: Bucket | None, other: Bucket | None) -> Bucket | None:
    if one is None or other is None:
        return one or other
    left, others = one.left, other.left
    if left == others:
        return one if one.content * other.limit >= other.content * one.limit else other  # by when it is empty
    return one if left < others else other


def _three(kind: str, limit: int, left: int, reset: float) -> Headers:
    first, second, third = _NAMES[kind]
    return ((first, str(limit)), (second, str(left)), (third, duration(reset)))
