"""The engine's answer to one request as it arrives: read whole or piece by piece, each wait and each size bounded.

It knows bytes, not what they mean; `engine_client` opens it and turns what goes wrong into our errors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from loradock_server.gateway.engine_line import Reply
from loradock_server.gateway.errors import EngineGarbled

# Far above what a model says in one go, logprobs and embeddings included: what is longer has no end.
MAX_WHOLE_BYTES = 256 << 20
MAX_EVENT_BYTES = 64 << 20
_WHITE = b" \t\r\n"
_KINDS = ("application/json", "text/event-stream")


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long the engine may take, in seconds: to accept a connection, to begin a stream, between two chunks of it,
    and for everything together.
    """

    connect: float
    first_byte: float
    chunk: float
    total: float


class Stage(Enum):
    """What is being waited for: an answer of which nothing is here, or the next chunk of a stream."""

    FIRST_BYTE = "first byte"
    CHUNK = "chunk"


class EngineAnswer:
    """Status, headers and content; `stage` says what the next read waits for.

    Reads raise what the line raises; whoever holds `EngineClient.post` open sees it translated.
    """

    def __init__(self, reply: Reply, timeouts: Timeouts) -> None:
        self.status = reply.status
        self.headers: Mapping[str, str] = reply.headers
        self.stage = Stage.FIRST_BYTE
        self._reply = reply
        self._timeouts = timeouts

    @property
    def is_stream(self) -> bool:
        return self.headers.get("content-type", "").startswith("text/event-stream")

    def content_type(self) -> str:
        """Raises EngineGarbled for an answer that no OpenAI route gives."""
        kind = self.headers.get("content-type", "application/json")
        if not 200 <= self.status < 300:
            raise EngineGarbled(f"the engine answered with status {self.status}; is it a LoRADock engine?")
        if not kind.startswith(_KINDS) or not (kind.isascii() and kind.isprintable()):
            raise EngineGarbled(f"the engine answered {kind[:80]!r} instead of JSON; is it a LoRADock engine?")
        return kind

    async def whole(self) -> bytes:
        """Everything. Raises EngineGarbled over MAX_WHOLE_BYTES."""
        rest = self._reply.rest()
        if rest is not None:
            _require(len(rest), MAX_WHOLE_BYTES, "an answer")
            return rest
        parts: list[bytes] = []
        size = 0
        while part := await self.more():
            parts.append(part)
            size += len(part)
            _require(size, MAX_WHOLE_BYTES, "an answer")
        return b"".join(parts)

    async def whole_object(self) -> bytes:
        """Everything, which looks like one JSON object from both ends: what lies between is not read.

        Raises EngineGarbled.
        """
        body = await self.whole()
        if not (body.startswith(b"{") and body.rstrip(_WHITE).endswith(b"}")):
            raise EngineGarbled(f"the engine's answer of {len(body)} bytes is not one JSON object, or not all of it")
        return body

    async def first_event(self) -> bytes:
        """Bytes up to at least the end of the first event (or of the stream).

        Raises EngineGarbled over MAX_EVENT_BYTES.
        """
        seen = bytearray()
        while part := await self.more():
            looked_at = max(len(seen) - 1, 0)  # the end may lie across two parts
            seen += part
            if seen.find(b"\n\n", looked_at) >= 0:
                break
            _require(len(seen), MAX_EVENT_BYTES, "an event")
        self._expect_chunks()
        return bytes(seen)

    async def more(self) -> bytes:
        """What came since; empty at the end."""
        return await self._reply.read()

    def _expect_chunks(self) -> None:
        self.stage = Stage.CHUNK
        self._reply.limit_pause(self._timeouts.chunk)


def _require(size: int, limit: int, what: str) -> None:
    if size > limit:
        raise EngineGarbled(f"the engine sent {what} of more than {limit} bytes without end; it was broken off")
