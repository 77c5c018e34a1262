"""The supervisor with real processes in the engine's place: small Python programs that read their launch order."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from loradock_server.engine.exits import explain
from loradock_server.engine.launch import LaunchOrder
from loradock_server.engine.prober import answers
from loradock_server.engine.start_log import LogFile
from loradock_server.engine.supervisor import STARTS_TRIED, EngineCannotStart, Supervisor, killed_for_memory

# Writes its order and its child's pid, then sleeps; leaves well on SIGTERM.
PROGRAM = """
import json, os, signal, subprocess, sys, time
order = json.loads(sys.stdin.readline())
child = subprocess.Popen(["sleep", "600"])
with open(order["artifacts"], "a") as file:
    file.write(json.dumps({**order, "pid": os.getpid(), "child": child.pid}) + "\\n")
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
time.sleep(600)
"""


@pytest.fixture
def order(tmp_path: Path) -> LaunchOrder:
    return LaunchOrder(
        address="unix:/nowhere", token="t", generation="", restarts=0, model="/m", served_name="b",
        base_digest="d", target_modules=("q_proj",), max_loras=1,
        artifacts=str(tmp_path / "starts"), artifacts_cache="", artifacts_cache_bytes=0,
        max_cpu_loras=1, adapter_memory_bytes=1, max_rank=8, max_adapter_bytes=1, max_model_len=16, dtype="auto",
        kv_cache_bytes=1,
        drain_timeout=1, metrics_adapter_limit=1, log_level="info", engine_args=("--seed=1",),
        compile=True, cache_root="/cache",
    )  # fmt: skip


async def starts(order: LaunchOrder, count: int) -> list[dict[str, object]]:
    path = Path(order.artifacts)
    while True:
        lines = path.read_text().splitlines() if path.exists() else []
        if len(lines) >= count:
            return [json.loads(line) for line in lines]
        await asyncio.sleep(0.02)


async def gone(pid: object) -> None:
    # It may go between opening and reading too.
    with suppress(FileNotFoundError, ProcessLookupError):
        while " Z " not in Path(f"/proc/{pid}/stat").read_text():
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

    asyncio.run(asyncio.wait_for(main(), 120))
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

    asyncio.run(asyncio.wait_for(main(), 120))


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

    asyncio.run(asyncio.wait_for(main(), 120))


# Answers liveness on the socket of its order, with a child beside it as vLLM's core is; each request takes `delay`.
SERVING = """
import asyncio, json, os, signal, subprocess, sys, time
order = json.loads(sys.stdin.readline())
child = subprocess.Popen(["sleep", "600"])
with open(order["artifacts"], "a") as file:
    file.write(json.dumps({**order, "pid": os.getpid(), "child": child.pid, "at": time.monotonic()}) + "\\n")
path = order["address"].removeprefix("unix:")

async def answer(reader, writer):
    await reader.readline()
    await asyncio.sleep(delay)
    writer.write(b"HTTP/1.1 200 OK\\r\\ncontent-length: 0\\r\\n\\r\\n")
    writer.close()

async def main():
    if os.path.exists(path):
        os.unlink(path)
    await asyncio.sleep(start)
    server = await asyncio.start_unix_server(answer, path)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, on_term, server)
    await server.serve_forever()

def on_term(server):
    sys.exit(0)

delay, start = 0, 0
asyncio.run(main())
"""


@pytest.fixture
def serving_order(order: LaunchOrder) -> Iterator[LaunchOrder]:
    with TemporaryDirectory(prefix="loradock-") as folder:  # pytest's own folders are too long for a socket
        yield replace(order, address=f"unix:{folder}/e.sock", hang_timeout=3.0)


async def answering(order: LaunchOrder) -> None:
    while not await answers(order.address, 10):
        await asyncio.sleep(0.02)


async def seen_answering(supervisor: Supervisor) -> None:
    while not supervisor._served:
        await asyncio.sleep(0.02)


def test_a_stopped_engine_is_noticed_within_its_limit_killed_with_all_it_has_and_replaced(
    serving_order: LaunchOrder,
) -> None:
    exits: list[int] = []

    async def main() -> None:
        stop = asyncio.Event()
        supervisor = Supervisor(serving_order, on_exit=exits.append, command=(sys.executable, "-c", SERVING))
        running = asyncio.create_task(supervisor.run(stop))
        (first,) = await starts(serving_order, 1)
        await seen_answering(supervisor)
        os.kill(int(str(first["pid"])), signal.SIGSTOP)
        stopped = time.monotonic()
        first, second = await starts(serving_order, 2)
        assert float(str(second["at"])) - stopped < 60  # the limit, the first delay, Python's start on a slow machine
        await gone(first["pid"])
        await gone(first["child"])
        await answering(serving_order)
        stop.set()
        await running

    asyncio.run(asyncio.wait_for(main(), 120))
    assert exits == [-signal.SIGKILL]


@pytest.mark.parametrize("values", ["0.6, 0", "0, 2.5"], ids=["slow to answer", "slow to start"])
def test_an_engine_that_is_only_slow_is_left_alone(serving_order: LaunchOrder, values: str) -> None:
    order = replace(serving_order, hang_timeout=4.0 if values.startswith("0.6") else 2.0)

    async def main() -> None:
        stop = asyncio.Event()
        program = SERVING.replace("delay, start = 0, 0", f"delay, start = {values}")
        supervisor = Supervisor(order, command=(sys.executable, "-c", program))
        running = asyncio.create_task(supervisor.run(stop))
        await answering(order)
        await asyncio.sleep(3)
        stop.set()
        await running
        assert supervisor.restarts == 0

    asyncio.run(asyncio.wait_for(main(), 120))


def test_a_start_that_never_ends_is_begun_anew(serving_order: LaunchOrder) -> None:
    async def main() -> None:
        stop = asyncio.Event()
        program = SERVING.replace("delay, start = 0, 0", "delay, start = 0, 600")
        supervisor = Supervisor(replace(serving_order, start_timeout=5), command=(sys.executable, "-c", program))
        running = asyncio.create_task(supervisor.run(stop))
        first, _ = await starts(serving_order, 2)
        await gone(first["pid"])
        stop.set()
        await running

    asyncio.run(asyncio.wait_for(main(), 120))


def test_an_engine_that_ignores_sigterm_is_killed_at_the_deadline(
    serving_order: LaunchOrder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loradock_server.engine.supervisor.STOP_GRACE_SECONDS", 0.5)

    async def main() -> None:
        stop = asyncio.Event()
        program = SERVING.replace("    sys.exit(0)", "    pass")
        supervisor = Supervisor(serving_order, command=(sys.executable, "-c", program))
        running = asyncio.create_task(supervisor.run(stop))
        (start,) = await starts(serving_order, 1)
        await answering(serving_order)
        stop.set()
        told = time.monotonic()
        await running
        assert 1.5 <= time.monotonic() - told < 60  # its drain timeout of 1 s and the grace
        await gone(start["pid"])

    asyncio.run(asyncio.wait_for(main(), 120))


def test_waiting_grows_while_engines_cannot_even_start_and_not_when_a_good_one_is_killed(
    serving_order: LaunchOrder, caplog: pytest.LogCaptureFixture
) -> None:
    def pauses() -> list[object]:
        """What it said before each new start, of the first two; and none from now on."""
        said = [record.args[1] for record in caplog.records if record.args and "starting a new one" in record.msg]  # type: ignore[index]
        caplog.clear()
        return said[:2]

    async def lives(program: str, *, kill: bool) -> list[float]:
        Path(serving_order.artifacts).unlink(missing_ok=True)
        stop = asyncio.Event()
        supervisor = Supervisor(serving_order, command=(sys.executable, "-c", program))
        running = asyncio.create_task(supervisor.run(stop))
        for count in range(1, 4):
            started = await starts(serving_order, count)
            if kill and count < 3:
                await seen_answering(supervisor)
                os.kill(int(str(started[-1]["pid"])), signal.SIGKILL)
        stop.set()
        with suppress(EngineCannotStart):
            await running
        return [float(str(start["at"])) for start in started]

    async def main() -> None:
        at = await lives(SERVING.replace("asyncio.run(main())", "sys.exit(3)"), kill=False)
        assert at[2] - at[1] > 1.0
        assert pauses() == [0.5, 1.0]
        await lives(SERVING, kill=True)
        assert pauses() == [0.5, 0.5]

    asyncio.run(asyncio.wait_for(main(), 300))


def test_exit_statuses_are_said_in_words() -> None:
    assert explain(-9) == "signal SIGKILL"
    assert explain(3) == "status 3"
    assert explain(70) == "status 70 (vLLM's core or a worker died)"


# Serves at its first start; from the second on it ends while starting, with the words and the status of the test.
FAILING = SERVING.replace(
    "asyncio.run(main())",
    """
first = order["restarts"] == 0
if not (first and serves_first):
    print(words, flush=True)
    sys.exit(status)
asyncio.run(main())
""",
)


def failing(words: str, status: int, *, serves_first: bool = False) -> tuple[str, ...]:
    program = f"words, status, serves_first = {words!r}, {status}, {serves_first}\n{FAILING}"
    return (sys.executable, "-c", program)


def run_to_failure(order: LaunchOrder, command: tuple[str, ...], log_file: Path | None = None) -> EngineCannotStart:
    supervisor = Supervisor(order, log=LogFile(log_file) if log_file else None, command=command)
    with pytest.raises(EngineCannotStart) as raised:
        asyncio.run(asyncio.wait_for(supervisor.run(asyncio.Event()), 120))
    return raised.value


def test_a_cause_that_a_restart_cannot_mend_is_tried_once(serving_order: LaunchOrder, tmp_path: Path) -> None:
    log_file = tmp_path / "logs" / "engine.log"
    log_file.parent.mkdir()
    log_file.write_text("LLVM ERROR: of a start long ago\n")
    words = "Traceback (most recent call last):\n  File 'x'\nValueError: Model architectures ['Foo'] are not supported"
    error = run_to_failure(serving_order, failing(words, 1), log_file)
    assert error.tries == len(Path(serving_order.artifacts).read_text().splitlines()) == 1
    assert error.failure.cause == "vLLM cannot serve this model: Model architectures ['Foo'] are not supported"


def test_a_cause_that_may_pass_is_tried_a_few_times_and_not_without_end(
    serving_order: LaunchOrder, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    words = (
        "ERROR: [Errno 98] address already in use\n"
        "nanobind: leaked 3 instances!\n - leaked instance 0x7f of type Map\n"
        "See https://nanobind.readthedocs.io/en/latest/refleaks.html/venv/resource_tracker.py: UserWarning"
    )
    error = run_to_failure(serving_order, failing(words, 1))
    assert error.tries == len(Path(serving_order.artifacts).read_text().splitlines()) == STARTS_TRIED
    assert "address is in use" in error.failure.cause
    # Without a log file its output passes through ours, all but the leak report.
    said = capfdbinary.readouterr().err
    assert said.count(b"[Errno 98]") >= STARTS_TRIED
    assert b"leaked" not in said
    assert b"nanobind" not in said
    assert said.count(b"\n/venv/resource_tracker.py") == STARTS_TRIED


def test_an_engine_that_has_served_is_replaced_however_its_next_starts_end(
    serving_order: LaunchOrder, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        stop = asyncio.Event()
        words = "LLVM ERROR: no"
        supervisor = Supervisor(serving_order, command=failing(words, 1, serves_first=True))
        running = asyncio.create_task(supervisor.run(stop))
        (first,) = await starts(serving_order, 1)
        await seen_answering(supervisor)
        os.kill(int(str(first["pid"])), signal.SIGKILL)
        await starts(serving_order, 4)
        assert not running.done()
        stop.set()
        await running

    asyncio.run(asyncio.wait_for(main(), 120))
    assert "LLVM ERROR: no; starting a new one" in caplog.text


def test_kills_for_want_of_memory_are_counted_where_linux_tells(tmp_path: Path) -> None:
    (tmp_path / "vmstat").write_text("pgfault 9\noom_kill 3\nballoon 0\n")
    assert killed_for_memory(tmp_path / "vmstat") == 3
    assert killed_for_memory(tmp_path / "none") == 0
