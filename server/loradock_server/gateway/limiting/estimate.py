"""How many tokens a request may cost, before anybody has counted: what is charged until the engine tells.

A quarter of the body's bytes for the prompt, and the longest answer that the body allows. It reads hostile bodies and
raises nothing; what is wrong in them the engine says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loradock_server.gateway.routes import Operation
from loradock_server.telemetry import attributes as names

BYTES_PER_TOKEN = 4
UNSAID_TOKENS = 256
"""An answer's length where the body says none: it could be the rest of the context, and hardly ever is."""

_LENGTHS: Mapping[str, tuple[str, ...]] = {
    names.CHAT: ("max_completion_tokens", "max_tokens"),
    names.TEXT_COMPLETION: ("max_tokens",),
    names.RESPONSES: ("max_output_tokens",),
    names.MESSAGES: ("max_tokens",),
}
_MOST_CHOICES = 128
_MOST = 1 << 40
_LONGEST = 1 << 20  # where the engine has not said yet how much it takes


def estimated_tokens(operation: Operation, body: Mapping[str, Any], size: int, *, context: int | None) -> int:
    """Tokens of prompt and answers together for a body of `size` bytes; `context` is the most that the engine takes."""
    if not operation.computes:
        return 0
    prompt = max(1, size // BYTES_PER_TOKEN)
    fields = _LENGTHS.get(operation.name)
    if fields is None:  # nothing is generated
        return prompt
    said = next((count for name in fields if (count := _count(body.get(name))) is not None), UNSAID_TOKENS)
    return min(prompt + min(said, context or _LONGEST) * _answers(body), _MOST)


def _answers(body: Mapping[str, Any]) -> int:
    count = min(_count(body.get("n")) or 1, _MOST_CHOICES)
    prompts = body.get("prompt")
    if isinstance(prompts, list) and prompts and isinstance(prompts[0], (str, list)):
        count *= len(prompts)
    return count


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
