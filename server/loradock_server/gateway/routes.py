"""The inference routes: what each is called, where the engine has it, how it words errors and ends a stream.

A table and its shape. It knows no request; `proxy` serves every route of it in the same way.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from loradock_server import wire
from loradock_server.telemetry import attributes as names

Dialect = Literal["openai", "responses", "anthropic"]
"""Whose clients read the errors; those of the Responses API are OpenAI's, but for the event in a stream."""

_OPENAI_ENDS = (b"\ndata: [DONE]",)
# An event of these is the last one: with it the answer is whole, failed or refused.
_RESPONSES_ENDS = tuple(
    b"\nevent: " + kind + b"\n"
    for kind in (b"response.completed", b"response.incomplete", b"response.failed", b"error")
)
_MESSAGES_ENDS = (b"\nevent: message_stop\n", b"\nevent: error\n")


@dataclass(frozen=True, slots=True)
class Operation:
    """An inference route. `name` is what the GenAI conventions call it, or what we do where they have no word.

    `engine_path`: where the engine has it. `prompt`: the field with what the model is to read. `takes_salt`: vLLM reads
    `cache_salt` there. `ends`: what stands in a stream that came to its end, at the beginning of a line.
    """

    path: str
    name: str
    engine_path: str
    prompt: str = "input"
    takes_salt: bool = True
    dialect: Dialect = "openai"
    ends: tuple[bytes, ...] = _OPENAI_ENDS

    @property
    def computes(self) -> bool:
        """False where the model itself is not asked, only its tokenizer: that is the same for every adapter."""
        return self.engine_path not in wire.READING


def _operations() -> Iterator[Operation]:
    yield Operation("/v1/chat/completions", names.CHAT, "/v1/chat/completions", "messages")
    yield Operation("/v1/completions", names.TEXT_COMPLETION, "/v1/completions", "prompt")
    yield Operation("/v1/responses", names.RESPONSES, "/v1/responses", dialect="responses", ends=_RESPONSES_ENDS)
    yield Operation(
        "/v1/messages", names.MESSAGES, "/v1/messages", "messages", dialect="anthropic", ends=_MESSAGES_ENDS
    )
    count = "/v1/messages/count_tokens"
    yield Operation(count, names.COUNT_TOKENS, count, "messages", takes_salt=False, dialect="anthropic")
    yield Operation("/v1/embeddings", names.EMBEDDINGS, "/v1/embeddings")
    # vLLM has these outside of /v1, and clients look for them at either place.
    for name in (names.SCORE, names.RERANK, names.CLASSIFY, names.POOLING, names.TOKENIZE, names.DETOKENIZE):
        for prefix in ("", "/v1"):
            yield Operation(f"{prefix}/{name}", name, f"/{name}", takes_salt=f"/{name}" not in wire.READING)


OPERATIONS = tuple(_operations())
_DIALECTS = {operation.path: operation.dialect for operation in OPERATIONS}


def dialect_of(path: str) -> Dialect:
    """How whoever asks for this path reads errors."""
    return _DIALECTS.get(path, "openai")
