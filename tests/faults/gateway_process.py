"""A real gateway in a process of its own that can be asked what it holds.

    python -m tests.faults.gateway_process '{"flags": {settings}, "base": folder, "token": …}'

It says {"url"} once it answers. Each line on its input then is an order: `count` is answered by what is held right now,
`stop` begins a graceful stop. Without more orders it dies with its parent.
"""

from __future__ import annotations

import asyncio
import gc
import json
import signal
import sys
from pathlib import Path
from typing import Any

import uvloop
from opentelemetry.sdk.trace import TracerProvider

from loradock_adapters.base_model import BaseModel
from loradock_server.base import ServedBase
from loradock_server.drain import Drain
from loradock_server.gateway.limiting.limiter import Limiter
from loradock_server.gateway.server import Started, run_gateway
from loradock_server.settings import load_settings
from loradock_server.telemetry.logs import configure_logging


def held() -> dict[str, int]:
    """Tasks of the loop, requests that count as being answered, places taken of limits."""
    tasks = [task for task in asyncio.all_tasks() if task.get_coro().__qualname__ != "LifespanOn.main"]  # type: ignore[union-attr]
    found: list[Any] = gc.get_objects()
    return {
        "tasks": len(tasks),
        "in_flight": sum(one.in_flight for one in found if type(one) is Drain),
        "permits": sum(held.running for one in found if type(one) is Limiter for held in one.subjects.values()),
    }


async def main(order: dict[str, Any]) -> None:
    settings = load_settings(**order["flags"])
    base = BaseModel.read(Path(order["base"]))
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    orders = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)

    def say(value: Any) -> None:
        print(json.dumps(value), flush=True)  # noqa: T201 for who started it

    async def listen() -> None:
        while line := await orders.readline():
            if line.strip() == b"count":
                say(held())
            else:
                stop.set()
                say("stopping")

    listening = asyncio.create_task(listen())
    await run_gateway(
        settings,
        base=ServedBase(base, base.name),
        engine_token=order["token"],
        stop=stop,
        on_started=lambda started: _started(started, say),
        tracer_provider=TracerProvider(),
    )
    listening.cancel()


def _started(started: Started, say: Any) -> None:
    say({"url": started.url})


if __name__ == "__main__":
    configure_logging("json", "info")
    uvloop.run(main(json.loads(sys.argv[1])))
