"""The gateway in this process, or in as many as `workers` says; alike for whoever runs it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from loradock_server.base import ServedBase
from loradock_server.gateway.server import Started, run_gateway
from loradock_server.gateway.workers import run_workers
from loradock_server.settings import Settings


async def run_gateways(
    settings: Settings,
    *,
    base: ServedBase,
    engine_token: str,
    stop: asyncio.Event,
    on_started: Callable[[Started], None],
    local_key: str | None = None,
) -> None:
    """Until `stop`; raises what `run_gateway` and `run_workers` do."""
    if settings.workers == 1:
        await run_gateway(
            settings, base=base, engine_token=engine_token, stop=stop, on_started=on_started, local_key=local_key
        )
        return
    from loradock_server.cli.worker import COMMAND

    await run_workers(
        settings,
        base=base,
        engine_token=engine_token,
        stop=stop,
        command=COMMAND,
        on_started=on_started,
        local_key=local_key,
    )
