"""When each key was last used: noted in memory with every request, written to the registry now and then.

A write that fails is done with the next one; what a killed gateway had noted since the last one is lost.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime

from loradock_adapters.errors import RegistryError
from loradock_adapters.registry import KeyTable

FLUSH_SECONDS = 30.0

_log = logging.getLogger(__name__)


class KeyUses:
    """For one event loop."""

    def __init__(self, keys: KeyTable) -> None:
        self._keys = keys
        self._at: dict[str, float] = {}
        self._failing = False

    def note(self, id: str, at: float) -> None:
        """A key was used at this time, in seconds since 1970."""
        self._at[id] = at

    async def follow(self) -> None:
        """Write until cancelled."""
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            await self.flush()

    async def flush(self) -> None:
        """Write what was noted; it is kept for the next time if the registry cannot be written."""
        taken, self._at = self._at, {}
        if not taken:
            return
        try:
            moments = {id: datetime.fromtimestamp(int(at), UTC) for id, at in taken.items()}
            await asyncio.to_thread(self._keys.note_uses, moments)
            self._failing = False
        except RegistryError as error:
            self._at = {**taken, **self._at}
            if not self._failing:
                _log.warning("when keys were last used cannot be written now: %s", error)
            self._failing = True
        except asyncio.CancelledError:
            self._at = {**taken, **self._at}
            raise
