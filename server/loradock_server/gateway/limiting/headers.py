"""What every answer says of limits: OpenAI's `x-ratelimit-*` headers, and Anthropic's too for clients of theirs."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import UTC, datetime

from loradock_server.gateway.limiting.bucket import Bucket
from loradock_server.gateway.limiting.subject import REQUESTS, TOKENS, Now, Subject
from loradock_server.gateway.routes import Dialect

Headers = tuple[tuple[str, str], ...]

_DAY = "tokens-day"
# Put together once: this is done for every answer.
_NAMES = {
    kind: (f"x-ratelimit-limit-{kind}", f"x-ratelimit-remaining-{kind}", f"x-ratelimit-reset-{kind}")
    for kind in (REQUESTS, TOKENS, _DAY)
}


def limit_headers(subjects: Iterable[Subject], now: Now, dialect: Dialect = "openai") -> Headers:
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
    if dialect == "anthropic":
        headers += _anthropics(requests, tokens, day, now)
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


def _anthropics(requests: Bucket | None, tokens: Bucket | None, day: Subject | None, now: Now) -> Headers:
    """Anthropic has one limit of tokens, "the most restrictive": by the minute or of the day, whichever leaves less."""
    headers: Headers = ()
    if requests is not None:
        headers = _three_anthropic(REQUESTS, requests.limit, requests.left, now.wall + requests.seconds_to_empty)
    if day is not None and (tokens is None or day.day_left < tokens.left):
        budget = day.limits.tokens_per_day or 0
        headers += _three_anthropic(TOKENS, budget, max(0, day.day_left), now.wall + now.seconds_left)
    elif tokens is not None:
        headers += _three_anthropic(TOKENS, tokens.limit, tokens.left, now.wall + tokens.seconds_to_empty)
    return headers


def _three_anthropic(kind: str, limit: int, left: int, reset: float) -> Headers:
    """`reset` in seconds since 1970; in words a whole second, never too early."""
    moment = datetime.fromtimestamp(math.ceil(reset - 1e-6), UTC)
    start = f"anthropic-ratelimit-{kind}"
    return (
        (f"{start}-limit", str(limit)),
        (f"{start}-remaining", str(left)),
        (f"{start}-reset", moment.strftime("%Y-%m-%dT%H:%M:%SZ")),
    )


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
