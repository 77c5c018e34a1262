"""The engine's usage feed: one record for every request that ended there, however it ended.

Follows the feed across lost connections, engine restarts and its own, so that each record is seen once.
Sequence numbers count within one engine process, which names itself in the reply's `x-loradock-generation`.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgspec

from loradock_adapters.errors import InvalidName
from loradock_adapters.names import AdapterRef
from loradock_adapters.registry.usage import MAX_TEXT, Position
from loradock_server import wire
from loradock_server.gateway.engine_client import EngineClient
from loradock_server.gateway.errors import EngineTimeout, EngineUnavailable

RECONNECT_SECONDS = 0.25

_MAX_GENERATION = 64  # characters
_MOST_TOKENS = 1 << 40  # of one request
_LAST_SECOND = 4_000_000_000  # some time in 2096

_adapter = lru_cache(maxsize=4096)(AdapterRef.parse)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Usage:
    """One record. Tokens are counts, times are seconds, `ended_at` since 1970; `adapter` None means the base model.

    `status` is what HTTP said to the gateway, None when the client had left before.
    """

    request_id: str
    adapter: AdapterRef | None
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    finish_reason: str | None
    time_to_first_token: float | None
    residency: str | None
    ended_at: float
    key_id: str = ""
    tenant: str = ""
    status: int | None = None

    @classmethod
    def parse(cls, line: dict[str, Any]) -> Usage:
        """Raises KeyError, TypeError, ValueError or InvalidName for a line that is no record."""
        adapter = line.get("adapter")
        return cls(
            request_id=str(line["request_id"]),
            adapter=None if adapter is None else _adapter(adapter),
            input_tokens=_count(line["input_tokens"]),
            output_tokens=_count(line["output_tokens"]),
            cached_tokens=_count(line.get("cached_tokens") or 0),
            finish_reason=_text(line.get("finish_reason")) or None,
            time_to_first_token=_seconds(line.get("time_to_first_token_seconds")),
            residency=_text(line.get("residency")) or None,
            ended_at=_moment(line.get("ended_at")),
            key_id=_text(line.get("key")),
            tenant=_text(line.get("tenant")),
            status=None if line.get("status") is None else int(line["status"]),
        )


def _count(value: Any) -> int:
    return min(max(int(value), 0), _MOST_TOKENS)


def _moment(value: Any) -> float:
    there = isinstance(value, (int, float)) and math.isfinite(value) and 0 <= value <= _LAST_SECOND
    return float(value) if there else time.time()


def _seconds(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _text(value: Any) -> str:
    """What a database takes: PostgreSQL has no place for a NUL."""
    if not isinstance(value, str):
        return ""
    text = wire.decoded(value)
    if len(text) <= MAX_TEXT and text.isprintable():
        return text
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[:MAX_TEXT])


class UsageFollower:
    """Hands every record of the feed to `take`, once, with its position."""

    def __init__(self, engine: EngineClient, take: Callable[[Usage, Position], None]) -> None:
        self._engine = engine
        self._take = take
        self._generation: str | None = None
        self._after = 0
        self._moved = False

    def resume(self, position: Position | None) -> None:
        """Go on behind this record, now; None: from the first that the engine still has."""
        self._generation, self._after = (None, 0) if position is None else (position.generation, position.seq)
        self._moved = True

    async def follow(self) -> None:
        """Follow until cancelled."""
        while True:
            try:
                await self._read_on()
            except (EngineUnavailable, EngineTimeout) as error:
                _log.debug("the usage feed broke off: %s", error)
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _read_on(self) -> None:
        self._moved = False
        async with self._engine.usage(self._after) as (told, lines):
            generation = (told or "")[:_MAX_GENERATION]
            if generation != self._generation:
                # Another process, which counts from one: what we asked for may have skipped its first records.
                skipped = self._after > 0
                self._generation, self._after = generation, 0
                if skipped:
                    return
            async for line in lines:
                if self._moved:
                    return
                self._read(line)

    def _read(self, line: bytes) -> None:
        if not line.strip():
            return
        try:
            value = msgspec.json.decode(line)
            seq, before, usage = int(value["seq"]), int(value.get("before") or 0), Usage.parse(value)
        except (ValueError, KeyError, TypeError, OverflowError, AttributeError, RecursionError, InvalidName) as error:
            _log.error("the engine sent a usage line that cannot be read: %s", error)
            return
        if seq > self._after:
            if before > self._after:
                _log.error(
                    "the engine has forgotten usage records of this gateway between %d and %d: they are not counted",
                    self._after,
                    seq,
                )
            self._after = seq
            self._take(usage, Position(self._generation or "", seq))
