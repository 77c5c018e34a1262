"""How much one request may ask for: answers and texts at once, which the engine would compute as that many requests.

One turn at the engine is one request's, whatever it holds; so what it holds is bounded. It knows fields and no HTTP.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from loradock_server.gateway.errors import BadRequest
from loradock_server.gateway.repetitions import MOST, repetitions
from loradock_server.telemetry import attributes as names

MAX_ANSWERS = 1024
"""Of one request: prompts times choices. vLLM's own bound on prompts; OpenAI has 128 choices at most, as vLLM here."""
MAX_TEXTS = 2048
"""To be embedded, scored or classified in one request, as OpenAI has it."""

MAX_GRAMMAR_BYTES = 1 << 16
"""Of what an answer must fit. The engine compiles grammars one after the other, and long ones for minutes: two
megabytes of choices kept everybody else's schemas waiting for longer than clients wait."""
MAX_REPETITIONS = 8192
"""Of all that such a thing repeats (see `repetitions`): a dozen seconds of a core. Twenty different lengths of some
hundred characters are a quarter of it, and a length that comes again is free."""
MAX_TOOLS_BYTES = 1 << 19
"""Of tools, of which most is prose for the model."""

_GRAMMARS = ("response_format", "structured_outputs", "text", "output_config")
_TEXTS: Mapping[str, tuple[str, ...]] = {
    names.EMBEDDINGS: ("input",),
    names.POOLING: ("input",),
    names.CLASSIFY: ("input",),
    names.RERANK: ("documents",),
    names.SCORE: ("text_1", "text_2", "data_1", "data_2", "queries", "documents", "items"),
}


def require_bounded(operation: str, body: Mapping[str, Any], size: int) -> None:
    """Look at the body of a request (by the operation's name), which had `size` bytes. Raises BadRequest."""
    outputs = body.get("structured_outputs")
    if outputs is not None and not isinstance(outputs, dict):
        # vLLM would stumble over it, and call that a fault of its own.
        raise BadRequest(
            f"structured_outputs must be an object (got {str(outputs)[:80]!r})", param="structured_outputs"
        )
    if size > MAX_GRAMMAR_BYTES:
        for field in _GRAMMARS:
            _require_short(field, body.get(field), MAX_GRAMMAR_BYTES)
        _require_short("tools", body.get("tools"), MAX_TOOLS_BYTES)
    for field in (*_GRAMMARS, "tools"):
        value = body.get(field)
        if isinstance(value, (dict, list)) and (count := repetitions(value)) > MAX_REPETITIONS:
            raise BadRequest(
                f"{field} has lengths and repetitions (minLength, maxLength, {{n,m}}) that differ and sum up to "
                f"{count}, each counted up to {MOST}; one request may have {MAX_REPETITIONS}: give several fields the "
                "same length, or leave the large ones away",
                param=field,
            )
    if operation == names.TEXT_COMPLETION:
        count, choices = _texts(body.get("prompt")), body.get("n")
        choices = choices if isinstance(choices, int) and choices > 0 else 1
        if count * choices > MAX_ANSWERS:
            said = min(choices, 1_000_000)
            raise BadRequest(
                f"{count} prompts with n={said} are {count * said} answers; one request may ask for {MAX_ANSWERS}",
                param="prompt" if count > MAX_ANSWERS else "n",
            )
        return
    for field in _TEXTS.get(operation, ()):
        if (count := _texts(body.get(field))) > MAX_TEXTS:
            raise BadRequest(f"{field} has {count} texts; one request may have {MAX_TEXTS}", param=field)


def _require_short(field: str, value: Any, limit: int) -> None:
    if isinstance(value, (dict, list)) and (size := len(json.dumps(value, ensure_ascii=False))) > limit:
        raise BadRequest(f"{field} has {size} characters; one request may have {limit}", param=field)


def _texts(value: Any) -> int:
    """A list of numbers is one text, in tokens."""
    if not isinstance(value, list) or (value and isinstance(value[0], int)):
        return 1
    return len(value)
