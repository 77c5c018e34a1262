"""An engine that cannot start, as the commands that run one end with it: the cause in one line and its fix."""

from __future__ import annotations

import asyncio
from pathlib import Path

from loradock_server.cli.errors import CommandError
from loradock_server.cli.greeting import shown
from loradock_server.engine.supervisor import EngineCannotStart, Supervisor


class EngineFailed(CommandError):
    """No engine came up, and trying on would not mend it."""

    code = "engine_failed"


async def supervised(supervisor: Supervisor, stop: asyncio.Event, log: Path | None = None) -> None:
    """Run engines until `stop`; `log` is where their output went. Raises EngineFailed."""
    try:
        await supervisor.run(stop)
    except EngineCannotStart as error:
        failure = error.failure
        tries = f", {error.tries} times" if error.tries > 1 else ""
        fix = failure.fix + (f" (all that it said: {shown(log)})" if log else "")
        raise EngineFailed(f"the engine cannot start{tries}: {failure.cause}", fix=fix) from None
