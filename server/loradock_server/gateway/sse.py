"""Watching a stream of server-sent events go by without changing a byte: first content, regular end, leading
error.

Knows the shapes of OpenAI's chunks and events (chat, completions, responses) and of Anthropic's, and nothing of
sockets.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

DONE = b"\ndata: [DONE]"
# So vLLM reports what fails in mid-stream. No text of a model can look like it: in JSON its quotes are escaped.
ERROR_EVENT = b'data: {"error"'
_TAIL_BYTES = 64
_DATA = b"data:"


class StreamScan:
    """Fed every chunk in order; cheap once the first content has been seen.

    `ends`: what stands at the beginning of a line (so they start with a line feed) in a stream that came to its regular
    end; `is_done` once it went by. No text of a model can look like it: in JSON its line feeds are escaped.
    """

    def __init__(self, ends: Sequence[bytes] = (DONE,)) -> None:
        self.has_content = False
        self.is_done = False
        self._ends = ends
        self._line = b""
        self._tail = b"\n"

    def feed(self, chunk: bytes) -> None:
        seen = self._tail + chunk
        if not self.is_done:
            self.is_done = any(end in seen for end in self._ends)
        self._tail = seen[-_TAIL_BYTES:]
        if self.has_content:
            return
        *lines, self._line = (self._line + chunk).split(b"\n")
        self.has_content = any(_has_content(line) for line in lines)

    @property
    def between_events(self) -> bool:
        """False in the middle of an event, where another one cannot simply be appended."""
        return self._tail == b"\n" or self._tail.endswith((b"\n\n", b"\r\n\r\n"))


def leading_error(event: bytes) -> dict[str, Any] | None:
    """The error that a stream begins with, if it does: nothing has been answered then."""
    line = next((line for line in event.split(b"\n\n", 1)[0].split(b"\n") if line.startswith(_DATA)), None)
    if line is None or b'"error"' not in line:
        return None
    value = _parse(line)
    error = value.get("error")
    return error if isinstance(error, dict) else None


def _has_content(line: bytes) -> bool:
    if not line.startswith(_DATA):
        return False
    value = _parse(line)
    kind = str(value.get("type", ""))
    if kind.endswith(".delta") or kind == "content_block_delta":  # of the Responses API, of Anthropic's
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
