"""The soak on the real engine: `loradock serve` under the same churn, its processes looked at from outside.

The engine is never stopped here; tests kill and stop it. Not compiled, so that it starts within a minute.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from pathlib import Path

import httpx
import psutil

from loadtest.bench import servers
from loadtest.engine_roles import engine_roles
from loadtest.soak.churn import Churn
from loradock_adapters.base_fetch import fetch

PATIENCE_SECONDS = 120.0
# So small that all of it has been written to before the warm-up ends: each page counts as memory from then on.
KV_CACHE = 64 << 20  # bytes


def soak(minutes: float, rate: float, change_every: float, every: float, samples: Path) -> Churn:
    """Churn for so long; writes a line of JSON each `every` seconds. Raises when the server does not start."""
    base = fetch(Path("var/base"))
    hidden = int(json.loads((base / "config.json").read_text())["hidden_size"])
    settings = {"LORADOCK_COMPILE": "false", "LORADOCK_METRICS_ADAPTER_LIMIT": "4"}
    with servers.ours(base, LORADOCK_ENGINE_ARGS=f"--kv-cache-memory-bytes={KV_CACHE}", **settings) as running:
        return asyncio.run(_churn(running, hidden, minutes * 60, rate, change_every, every, samples))


async def _churn(
    running: servers.Running,
    hidden: int,
    seconds: float,
    rate: float,
    change_every: float,
    every: float,
    samples: Path,
) -> Churn:
    limits = httpx.Limits(max_connections=100, max_keepalive_connections=20)
    headers = {"authorization": f"Bearer {running.key}"}
    async with httpx.AsyncClient(
        base_url=running.url, headers=headers, timeout=PATIENCE_SECONDS, trust_env=False, limits=limits
    ) as http:
        churn = Churn(http, running.base, random.Random(7), hidden)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds), asyncio.TaskGroup() as tasks:
                tasks.create_task(churn.clients(rate))
                tasks.create_task(churn.operators(change_every))
                tasks.create_task(_sample(running.home, every, samples))
        return churn


async def _sample(home: Path, every: float, path: Path) -> None:
    began = time.monotonic()
    processes = _processes(home)
    while True:
        line: dict[str, float] = {"seconds": round(time.monotonic() - began, 1)}
        for role, process in processes.items():
            with process.oneshot():
                line[f"{role} rss"] = process.memory_info().rss
                line[f"{role} files"] = process.num_fds()
        with path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        await asyncio.sleep(every)


def _processes(home: Path) -> dict[str, psutil.Process]:
    (serve,) = (one for one in psutil.process_iter() if _serves(one, home))
    return {"gateway": serve, **engine_roles(serve)}


def _serves(process: psutil.Process, home: Path) -> bool:
    try:
        return "serve" in process.cmdline() and process.environ().get("LORADOCK_HOME") == str(home)
    except (psutil.AccessDenied, psutil.NoSuchProcess):
        return False
