"""The supervisor with real processes in the engine's place: a small Python program that reads its launch order."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from loradock_server.engine.launch import LaunchOrder
from loradock_server.engine.supervisor import Supervisor, explain

# Writes its order and its child's pid, then sleeps; leaves well on SIGTERM.
PROGRAM = """
import json, os, signal, subprocess, sys, time
order = json.loads(sys.stdin.readline())
child = subprocess.Popen(["sleep", "600"])
with open(order["store_root"], "a") as file:
    file.write(json.dumps({**order, "pid": os.getpid(), "child": child.pid}) + "\\n")
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
time.sleep(600)
"""


@pytest.fixture
def order(tmp_path: Path) -> LaunchOrder:
    return LaunchOrder(
        address="unix:/nowhere", token="t", generation="", restarts=0, model="/m", served_name="b",
        base_digest="d", target_modules=("q_proj",), store_root=str(tmp_path / "starts"), max_loras=1,
        max_cpu_loras=1, max_rank=8, max_adapter_bytes=1, max_model_len=16, dtype="auto", kv_cache_bytes=1,
        drain_timeout=1, metrics_adapter_limit=1, log_level="info", engine_args=("--seed=1",),
    )  # fmt: skip


async def starts(order: LaunchOrder, count: int) -> list[dict[str, object]]:
    path = Path(order.store_root)
    while True:
        lines = path.read_text().splitlines() if path.exists() else []
        if len(lines) >= count:
            return [json.loads(line) for line in lines]
        await asyncio.sleep(0.02)


async def gone(pid: object) -> None:
    while os.path.exists(f"/proc/{pid}") and " Z " not in Path(f"/proc/{pid}/stat").read_text():
        await asyncio.sleep(0.02)


def test_a_killed_engine_is_replaced_and_nothing_of_it_survives(order: LaunchOrder) -> None:
    exits: list[int] = []

    async def main() -> None:
        stop = asyncio.Event()
        supervisor = Supervisor(order, on_exit=exits.append, command=(sys.executable, "-c", PROGRAM))
        running = asyncio.create_task(supervisor.run(stop))
        (first,) = await starts(order, 1)
        os.kill(int(str(first["pid"])), signal.SIGKILL)
        first, second = await starts(order, 2)
        await gone(first["child"])
        assert (first["restarts"], second["restarts"], supervisor.restarts) == (0, 1, 1)
        assert first["generation"] != second["generation"]
        stop.set()
        await running
        await gone(second["pid"])
        await gone(second["child"])

    asyncio.run(asyncio.wait_for(main(), 30))
    assert exits == [-signal.SIGKILL]


def test_an_engine_that_exits_well_without_being_told_is_replaced_too(order: LaunchOrder) -> None:
    """vLLM's API process returns 0 when its engine core dies."""

    async def main() -> None:
        stop = asyncio.Event()
        program = PROGRAM.replace("time.sleep(600)", "sys.exit(0)")
        supervisor = Supervisor(order, command=(sys.executable, "-c", program))
        running = asyncio.create_task(supervisor.run(stop))
        await starts(order, 2)
        stop.set()
        await running

    asyncio.run(asyncio.wait_for(main(), 30))


def test_the_order_arrives_whole_and_nothing_of_it_shows_in_the_process_list(order: LaunchOrder) -> None:
    async def main() -> None:
        stop = asyncio.Event()
        supervisor = Supervisor(order, command=(sys.executable, "-c", PROGRAM))
        running = asyncio.create_task(supervisor.run(stop))
        (start,) = await starts(order, 1)
        shown = Path(f"/proc/{start['pid']}/cmdline").read_bytes() + Path(f"/proc/{start['pid']}/environ").read_bytes()
        assert b"unix:/nowhere" not in shown
        assert LaunchOrder.from_json(json.dumps({k: start[k] for k in LaunchOrder.__slots__})).engine_args == (
            "--seed=1",
        )
        stop.set()
        await running

    asyncio.run(asyncio.wait_for(main(), 30))


def test_exit_statuses_are_said_in_words() -> None:
    assert (explain(-9), explain(70)) == ("signal SIGKILL", "status 70")
