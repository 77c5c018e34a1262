"""How much one request may ask for: answers and texts at once, which the engine would compute as that many requests.

One turn at the engine is one request's, whatever it holds; so what it holds is bounded. It knows fields and no HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loradock_server.gateway.errors import BadRequest
from loradock_server.telemetry import attributes as names

MAX_ANSWERS = 1024
"""Of one request: prompts times choices. vLLM's own bound on prompts; OpenAI has 128 choices at most, as vLLM here."""
MAX_TEXTS = 2048
"""To be embedded, scored or classified in one request, as OpenAI has it."""

_TEXTS: Mapping[str, tuple[str, ...]] = {
    names.EMBEDDINGS: ("input",),
    names.POOLING: ("input",),
    names.CLASSIFY: ("input",),
    names.RERANK: ("documents",),
    names.SCORE: ("text_1", "text_2", "data_1", "data_2", "queries", "documents", "items"),
}


def require_bounded(operation: str, body: Mapping[str, Any]) -> None:
    """Look at the body of a request (by the operation's name). Raises BadRequest."""
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


def _texts(value: Any) -> int:
    """A list of numbers is one text, in tokens."""
    if not isinstance(value, list) or (value and isinstance(value[0], int)):
        return 1
    return len(value)
