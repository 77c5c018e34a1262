"""Spans of time and moments as people write them: `30d`, `12h`, `2027-01-31`. Pure functions; knows no clock."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from loradock_server.cli.errors import Unreadable

_SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}
_SPAN = re.compile(r"([0-9]{1,9})(s|min|h|d|w)")


def read_span(text: str) -> int:
    """Seconds in `90s`, `15min`, `24h`, `30d`, `2w`, or 0. Raises Unreadable."""
    if text == "0":
        return 0
    found = _SPAN.fullmatch(text)
    if found is None:
        raise Unreadable(f"{text[:80]!r} is no span of time", fix="write it as 90s, 15min, 24h, 30d or 2w")
    return int(found[1]) * _SECONDS[found[2]]


def read_expiry(text: str) -> dict[str, int | str]:
    """What a server is told of `30d` (by its own clock), or of a date or time in ISO 8601; UTC where no zone is said.

    Raises Unreadable.
    """
    if _SPAN.fullmatch(text):
        return {"expires_in": read_span(text)}
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        fix = "write a span as 30d or 12h, or a time as 2027-01-31 or 2027-01-31T18:00Z"
        raise Unreadable(f"{text[:80]!r} is neither a span of time nor a time", fix=fix) from error
    return {"expires_at": (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).isoformat()}
