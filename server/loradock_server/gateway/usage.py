"""The engine's usage feed: one record for every request that ended there, however it ended.

Follows the feed across lost connections and engine restarts so that the ledger sees each record once.
Sequence numbers count within one engine process, which names itself in the reply's `x-loradock-generation`.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from loradock_adapters.errors import InvalidName
from loradock_adapters.names import AdapterRef
from loradock_server.gateway.engine_client import EngineClient
from loradock_server.gateway.errors import EngineTimeout, EngineUnavailable

RECONNECT_SECONDS = 0.25

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Usage:
    """One record. Tokens are counts, times are seconds; `adapter` None means the base model."""

    request_id: str
    adapter: AdapterRef | None
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    finish_reason: str | None
    time_to_first_token: float | None
    residency: str | None

    @classmethod
    def parse(cls, line: dict[str, Any]) -> Usage:
        """Raises KeyError, TypeError, ValueError or InvalidName for a line that is no record."""
        adapter = line.get("adapter")
        return cls(
            request_id=str(line["request_id"]),
            adapter=None if adapter is None else AdapterRef.parse(adapter),
            input_tokens=max(int(line["input_tokens"]), 0),
            output_tokens=max(int(line["output_tokens"]), 0),
            cached_tokens=max(int(line.get("cached_tokens") or 0), 0),
            finish_reason=line.get("finish_reason"),
            time_to_first_token=line.get("time_to_first_token_seconds"),
            residency=line.get("residency"),
        )


class UsageFollower:
    """Hands every record of the feed to `take`, once."""

    def __init__(self, engine: EngineClient, take: Callable[[Usage], None]) -> None:
        self._engine = engine
        self._take = take
        self._generation: str | None = None
        self._after = 0

    async def follow(self) -> None:
        """Follow until cancelled."""
        while True:
            try:
                await self._read_on()
            except (EngineUnavailable, EngineTimeout) as error:
                _log.debug("the usage feed broke off: %s", error)
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _read_on(self) -> None:
        async with self._engine.usage(self._after) as (generation, lines):
            if generation != self._generation:
                # Another process, which counts from one: what we asked for may have skipped its first records.
                skipped = self._after > 0
                self._generation, self._after = generation, 0
                if skipped:
                    return
            async for line in lines:
                self._read(line)

    def _read(self, line: bytes) -> None:
        if not line.strip():
            return
        try:
            value = json.loads(line)
            seq, usage = int(value["seq"]), Usage.parse(value)
        except (ValueError, KeyError, TypeError, InvalidName) as error:
            _log.error("the engine sent a usage line that cannot be read: %s", error)
            return
        if seq > self._after:
            self._after = seq
            self._take(usage)
