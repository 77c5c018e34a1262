"""Keeps the engine's pins in line with the registry's: the live version of every pinned adapter, and no other.

Declares what is wanted and lets the engine load. It is told again after a restart, when a pin or a live version
changed, and now and then while something wanted is missing. What went wrong this time, the next look tries again.
"""

from __future__ import annotations

import asyncio
import logging
import time

from loradock_server.gateway.engine_client import EngineClient
from loradock_server.gateway.errors import EngineTimeout, EngineUnavailable
from loradock_server.gateway.table import RoutingTable
from loradock_server.gateway.watch import POLL_SECONDS, EngineWatch

# Told again, the engine tries again to load what it could not.
RETRY_SECONDS = 10.0

_log = logging.getLogger(__name__)


class PinKeeper:
    """Tells the engine which adapters to keep in memory."""

    def __init__(self, engine: EngineClient, watch: EngineWatch, table: RoutingTable) -> None:
        self._engine = engine
        self._watch = watch
        self._table = table
        self._told_at = -RETRY_SECONDS

    async def follow(self) -> None:
        """Look until cancelled."""
        while True:
            await self.keep()
            await asyncio.sleep(POLL_SECONDS)

    async def keep(self) -> None:
        """Compare once, now, and tell the engine if it has other pins, or again if it is time."""
        state, wanted = self._watch.state, self._table.pins
        if not state.ready or state.pins is None:
            return
        agreed = [(name, pin.get("digest")) for name, pin in state.pins.items()] == list(wanted.items())
        missing = wanted.keys() - state.adapters.keys()
        if agreed and not (missing and time.monotonic() - self._told_at >= RETRY_SECONDS):
            return
        self._told_at = time.monotonic()
        try:
            await self._engine.pin(wanted, self._table.pin_signatures)
        except (EngineUnavailable, EngineTimeout) as error:
            _log.warning("the engine was not told of %d pins: %s", len(wanted), error)
