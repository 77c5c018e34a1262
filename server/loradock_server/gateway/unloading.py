"""Freeing the engine's memory of versions that nobody can ask for any more. It changes no registry."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from loradock_adapters.names import AdapterRef
from loradock_server.gateway.errors import EngineTimeout, EngineUnavailable
from loradock_server.gateway.services import Services

# A version that still answers somebody drains in the engine; the client does not wait for that.
_WAIT_SECONDS = 5.0


async def unloaded(services: Services, refs: Iterable[AdapterRef]) -> bool:
    """Nobody can ask for these any more; whether the engine is rid of them too. Running requests finish first."""
    await services.table.refresh()
    unloading = services.background.start(_unload(services, tuple(refs)))
    await asyncio.wait({unloading}, timeout=_WAIT_SECONDS)
    return unloading.done()


async def _unload(services: Services, refs: tuple[AdapterRef, ...]) -> None:
    """An engine that is down has none of them, and an id is never given twice."""
    for ref in refs:
        if ref.id not in services.watch.state.adapters and services.watch.state.ready:
            continue
        try:
            await services.engine.unload(ref.id)
        except (EngineUnavailable, EngineTimeout):
            continue
