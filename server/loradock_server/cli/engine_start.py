"""An engine's start as the commands that run one see it: limits that fit this machine, or the cause and its fix."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from loradock_adapters.processor import Processor
from loradock_server.base import ServedBase
from loradock_server.cli.errors import CommandError
from loradock_server.cli.greeting import shown
from loradock_server.engine import memory_need
from loradock_server.engine.launch import LaunchOrder, launch_order
from loradock_server.engine.machine_memory import MachineMemory
from loradock_server.engine.supervisor import EngineCannotStart, Supervisor
from loradock_server.settings import Settings


class EngineFailed(CommandError):
    """No engine came up, and trying on would not mend it."""

    code = "engine_failed"


def order_that_fits(settings: Settings, base: ServedBase, token: str, say: Callable[[str], None]) -> LaunchOrder:
    """The launch order of `settings`. `say` gets a line for what was chosen, and for each default that is lowered.

    Raises EngineFailed.
    """
    order = launch_order(settings, base, token)
    memory = MachineMemory.here()
    if memory is None or not memory_need.on_cpu():
        return order
    order, chosen = memory_need.with_dtype(order, base.model, memory, Processor.here())
    if chosen is not None:
        say(chosen)
    try:
        order, said = memory_need.fitted(order, base.model, memory, settings.model_fields_set)
    except memory_need.NotEnoughMemory as error:
        raise EngineFailed(f"not enough memory: {error}", fix=error.fix) from None
    for line in said:
        say(line)
    return order


async def supervised(supervisor: Supervisor, stop: asyncio.Event, log: Path | None = None) -> None:
    """Run engines until `stop`; `log` is where their output went. Raises EngineFailed."""
    try:
        await supervisor.run(stop)
    except EngineCannotStart as error:
        failure = error.failure
        tries = f", {error.tries} times" if error.tries > 1 else ""
        fix = failure.fix + (f" (all that it said: {shown(log)})" if log else "")
        raise EngineFailed(f"the engine cannot start{tries}: {failure.cause}", fix=fix) from None
