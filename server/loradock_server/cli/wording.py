"""Sizes, times and strangers' strings as people read them. Pure functions; knows no terminal."""

from __future__ import annotations

import unicodedata
from datetime import UTC, datetime
from typing import Any

NOTHING = "-"
_UNITS = ("kB", "MB", "GB", "TB")
_SPANS = (("d", 86400), ("h", 3600), ("min", 60))


def printable(value: object) -> str:
    """`value` as text that cannot move the cursor, colour the screen or turn the line around.

    Names, faults and server messages may come from a stranger's file; control and format characters in them
    become visible escapes. Line breaks stay.
    """
    return "".join(
        character
        if character == "\n" or unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp")
        else character.encode("unicode_escape").decode("ascii")
        for character in str(value)
    )


def cell(value: object) -> str:
    """`value` for a table cell, with a dash for nothing."""
    if value is None or value == "":
        return NOTHING
    if isinstance(value, (list, tuple, set, frozenset)):
        return ", ".join(printable(item) for item in value) or NOTHING
    return printable(value)


def size(count: object) -> str:
    """A number of bytes: `640 B`, `1.8 MB`."""
    if not isinstance(count, int) or isinstance(count, bool):
        return cell(count)
    if count < 1000:
        return f"{count} B"
    amount = float(count)
    for unit in _UNITS:
        amount /= 1000
        if amount < 999.95 or unit == _UNITS[-1]:
            break
    return f"{amount:.1f} {unit}"


def moment(value: Any) -> str:
    """A time in ISO 8601 or in seconds since 1970, as `2026-01-31 17:05 UTC`; anything else unchanged."""
    try:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            parsed = datetime.fromtimestamp(value, UTC)
        else:
            parsed = datetime.fromisoformat(str(value))
    except (ValueError, OverflowError, OSError):
        return cell(value)
    if parsed.tzinfo is None:
        parsed = parsed.replace(tzinfo=UTC)
    return parsed.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def ago(value: Any, now: float) -> str:
    """How long before `now` (seconds since 1970) a time in ISO 8601 was: `12 s ago`, `3 h ago`."""
    try:
        # The server's clock may be ahead of ours.
        seconds = max(0.0, now - datetime.fromisoformat(str(value)).timestamp())
    except (ValueError, OverflowError, OSError):
        return cell(value)
    # Two of a unit at least, so that no digit is lost that matters.
    unit, length = next((span for span in _SPANS if seconds >= 2 * span[1]), ("s", 1))
    return f"{int(seconds / length)} {unit} ago"


def short_digest(value: object) -> str:
    """The first 12 hex digits of a digest: enough to tell versions apart by eye."""
    return cell(value)[:12]
