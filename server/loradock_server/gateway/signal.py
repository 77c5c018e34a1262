"""When to look at the registry again: at once where the database tells of changes, else every quarter second.

It knows no names and no routes; the table asks it to wait.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from loradock_adapters.errors import RegistryError
from loradock_adapters.registry import Registry
from loradock_adapters.registry.listening import Listener

POLL_SECONDS = 0.25
# Where the database tells us: only for a notice that was lost with its connection.
FALLBACK_SECONDS = 0.75


class ChangeSignal:
    """Use it as a context manager, in the event loop that waits."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._changed = asyncio.Event()
        self._listener: Listener | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hang_up()

    async def wait(self) -> None:
        """Return when something may have changed."""
        listening = self._listener is not None or await self._listen()
        try:
            async with asyncio.timeout(FALLBACK_SECONDS if listening else POLL_SECONDS):
                await self._changed.wait()
        except TimeoutError:
            pass
        self._changed.clear()

    def look(self) -> None:
        """Somebody else knows of a change."""
        self._changed.set()

    async def _listen(self) -> bool:
        try:
            listener = await asyncio.to_thread(self._registry.listen)
        except RegistryError:
            return False  # who reads the registry next will say so
        if listener is None:
            return False
        self._listener = listener
        asyncio.get_running_loop().add_reader(listener.fileno(), self._hear)
        self._changed.set()  # by what happened before we listened
        return True

    def _hear(self) -> None:
        if self._listener is None:
            return
        try:
            self._listener.clear()
        except RegistryError:
            self._hang_up()
        self._changed.set()

    def _hang_up(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener.fileno())
            self._listener.close()
            self._listener = None
