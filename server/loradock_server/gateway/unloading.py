"""Freeing the engine's memory of versions that nobody can ask for any more. It changes no registry."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from loradock_adapters.names import AdapterRef
from loradock_server.gateway.errors import EngineTimeout, EngineUnavailable
from loradock_server.gateway.services import Services

# A version that still answers somebody drains in the engine; the client does not wait for that.
_WAIT_SECONDS = 5.0
_RETRY_SECONDS = 2.0

_log = logging.getLogger(__name__)


async def unloaded(services: Services, refs: Iterable[AdapterRef]) -> bool:
    """Nobody can ask for these any more; whether the engine is rid of them too. Running requests finish first."""
    await services.table.refresh()
    await services.watch.ask()  # it may have been loaded a moment ago
    unloading = services.background.start(_unload(services, tuple(refs)))
    await asyncio.wait({unloading}, timeout=_WAIT_SECONDS)
    return unloading.done()


async def _unload(services: Services, refs: tuple[AdapterRef, ...]) -> None:
    async with asyncio.TaskGroup() as group:
        for ref in refs:
            group.create_task(_unload_one(services, ref))


async def _unload_one(services: Services, ref: AdapterRef) -> None:
    """Until the engine is rid of it, or of all it had: the engine gives a drain up before the longest request ends."""
    watch = services.watch
    try:
        async with asyncio.timeout(services.settings.request_timeout + _RETRY_SECONDS):
            while ref.id in watch.state.adapters or not watch.state.ready:
                try:
                    await services.engine.unload(ref.id)
                    return
                except (EngineUnavailable, EngineTimeout):
                    await watch.ask()
                    if not watch.state.ready:
                        return  # its memory went with it, and an id is never given twice
                await asyncio.sleep(_RETRY_SECONDS)
    except TimeoutError:
        _log.warning("%s is still in the engine's memory; it goes when others need the room", ref.id)
