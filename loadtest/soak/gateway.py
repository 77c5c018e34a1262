"""The gateway under test, which writes down what it holds: `python -m loadtest.soak.gateway SECONDS FILE`.

Settings come from the environment as always. It is `loadtest.soak`'s own `loradock gateway`: the same, and a task that
appends a line of JSON to FILE each SECONDS with what the process holds. From inside, because nobody outside sees tasks.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path

import psutil

from loradock_server.cli.find_base import open_base
from loradock_server.cli.serve import run_async
from loradock_server.gateway.server import run_gateway
from loradock_server.settings import load_settings
from loradock_server.telemetry.logs import configure_logging


async def sample(stop: asyncio.Event, seconds: float, path: Path) -> None:
    process = psutil.Process()
    began = time.monotonic()
    while not stop.is_set():
        with process.oneshot():
            line = {
                "seconds": round(time.monotonic() - began, 1),
                "rss": process.memory_info().rss,
                "files": process.num_fds(),
                "threads": process.num_threads(),
                "tasks": len(asyncio.all_tasks()),
                "cpu_seconds": round(sum(process.cpu_times()[:2]), 2),
            }
        with path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        await asyncio.sleep(seconds)


async def serve(stop: asyncio.Event, seconds: float, path: Path) -> None:
    settings = load_settings()
    assert settings.engine_token is not None
    sampling = asyncio.create_task(sample(stop, seconds, path))
    try:
        base = await asyncio.to_thread(open_base, settings)
        await run_gateway(settings, base=base, engine_token=settings.engine_token.get_secret_value(), stop=stop)
    finally:
        sampling.cancel()


if __name__ == "__main__":
    configure_logging("json", os.environ.get("LORADOCK_LOG_LEVEL", "warning"))
    run_async(lambda stop: serve(stop, float(sys.argv[1]), Path(sys.argv[2])))
