"""Watching a stream of server-sent events go by without changing a byte: first content, regular end, leading
error.

Knows OpenAI's chunk shapes (chat, completions, responses) and nothing of sockets.
"""

from __future__ import annotations

import json
from typing import Any

DONE = b"data: [DONE]"
_DATA = b"data:"


class StreamScan:
    """Fed every chunk in order; cheap once the first content has been seen."""

    def __init__(self) -> None:
        self.has_content = False
        self._line = b""
        self._tail = b""

    def feed(self, chunk: bytes) -> None:
        self._tail = (self._tail + chunk)[-32:]
        if self.has_content:
            return
        *lines, self._line = (self._line + chunk).split(b"\n")
        self.has_content = any(_has_content(line) for line in lines)

    @property
    def is_done(self) -> bool:
        """True once the regular end of the stream went by."""
        return DONE in self._tail

    @property
    def between_events(self) -> bool:
        """False in the middle of an event, where another one cannot simply be appended."""
        return not self._tail or self._tail.endswith((b"\n\n", b"\r\n\r\n"))


def leading_error(event: bytes) -> dict[str, Any] | None:
    """The error that a stream begins with, if it does: nothing has been answered then."""
    if not event.startswith(_DATA):
        return None
    value = _parse(event.split(b"\n", 1)[0])
    error = value.get("error")
    return error if isinstance(error, dict) else None


def _has_content(line: bytes) -> bool:
    if not line.startswith(_DATA):
        return False
    value = _parse(line)
    if str(value.get("type", "")).endswith(".delta"):  # the Responses API
        return True
    choices = value.get("choices")
    if not isinstance(choices, list):
        return False
    for choice in choices:
        if not isinstance(choice, dict):
            continue
        delta = choice.get("delta")
        if choice.get("text") or (
            isinstance(delta, dict) and any(value for key, value in delta.items() if key != "role")
        ):
            return True
    return False


def _parse(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line[len(_DATA) :])
    except (ValueError, RecursionError):  # not ours to judge; the client sees the same bytes
        return {}
    return value if isinstance(value, dict) else {}
