"""The pulse: hanging is told from being slow, on a scripted engine and on real processes that compute and stop."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from loradock_server.engine.pulse import ENDLESS, CpuSeconds, Pulse, cpu_seconds_of_group

HANG = 0.2  # seconds


async def never() -> None:
    await asyncio.Event().wait()


def rising(seconds_per_look: float) -> Callable[[], CpuSeconds]:
    """One process that computes, one that only waits for it."""
    numbers = itertools.count()
    return lambda: {1: next(numbers) * seconds_per_look, 2: 5.0}


def verdict(
    ask: Callable[[], Awaitable[object]], cpu: Callable[[], CpuSeconds | None], *, within: float, busy: bool = True
) -> str | None:
    """What the pulse says within that time, None when it finds nothing wrong."""

    async def main() -> str | None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                return await Pulse(ask, lambda: busy, cpu, hang_timeout=HANG).hung()
        return None

    return asyncio.run(main())


def test_no_answer_and_no_computing_is_a_hang() -> None:
    said = verdict(never, lambda: {1: 7.0, 2: 0.0}, within=60)
    assert said is not None
    assert "no processor time" in said


def test_no_answer_from_an_engine_that_computes_is_a_long_step() -> None:
    assert verdict(never, rising(HANG / 10), within=5 * HANG) is None


def test_processes_that_only_poll_do_not_pass_for_computing_however_many_they_are() -> None:
    numbers = itertools.count()

    def polling() -> CpuSeconds:
        used = next(numbers) * HANG / 10 * 0.02
        return dict.fromkeys(range(1, 17), used)

    assert verdict(never, polling, within=60)


def test_a_step_without_end_is_noticed_at_last() -> None:
    said = verdict(never, rising(HANG / 10), within=30 * ENDLESS * HANG)
    assert said is not None
    assert "though it computes" in said


def test_where_processor_time_cannot_be_known_only_the_last_limit_holds() -> None:
    assert verdict(never, lambda: None, within=5 * HANG) is None


def test_one_look_with_computing_starts_the_count_of_idle_ones_anew() -> None:
    looks = [0.0] * 8 + [1.0] * 8 + [2.0] * 1000
    taken: list[float] = []

    def cpu() -> CpuSeconds:
        taken.append(looks[len(taken)])
        return {1: taken[-1]}

    assert verdict(never, cpu, within=60)
    assert len(taken) == 8 + 8 + 1 + 10


def test_an_engine_that_answers_is_asked_again_and_left_alone_even_when_it_answers_with_errors() -> None:
    asked = []

    async def ask() -> None:
        asked.append(True)
        raise RuntimeError("server shutting down")

    assert verdict(ask, dict, within=10 * HANG) is None
    assert len(asked) > 5


def test_an_idle_engine_is_asked_only_once_per_limit() -> None:
    asked = []

    async def ask() -> None:
        asked.append(True)

    assert verdict(ask, dict, within=2.5 * HANG, busy=False) is None
    assert len(asked) <= 3


# A process group as vLLM's: this one asks, its child answers after computing for as many seconds as it is told.
GROUP = """
import asyncio, signal, sys
from loradock_server.engine.pulse import Pulse, cpu_seconds_of_group
CHILD = '''
import sys, time
for line in sys.stdin:
    end = time.process_time() + float(line)
    while time.process_time() < end:
        pass
    print("done", flush=True)
'''

async def main():
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CHILD, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    work = [0.0, 2.0, 0.0]

    async def ask():
        child.stdin.write(f"{work.pop(0)}\\n".encode())
        await child.stdout.readline()
        print("answered", flush=True)
        if not work:
            child.send_signal(signal.SIGSTOP)
            work.append(0.0)

    print("hung:", await Pulse(ask, lambda: True, cpu_seconds_of_group, hang_timeout=1.0).hung(), flush=True)
    child.kill()

asyncio.run(main())
"""


def test_a_process_that_computes_past_the_limit_is_waited_for_and_a_stopped_one_is_not() -> None:
    done = subprocess.run(
        [sys.executable, "-c", GROUP], capture_output=True, text=True, timeout=300, start_new_session=True, check=True
    )
    *answered, last = done.stdout.splitlines()
    assert answered == ["answered"] * 3
    assert last == "hung: no answer for 1 s and no processor time used meanwhile"


def test_processor_time_is_unknown_where_there_is_no_proc(tmp_path: Path) -> None:
    assert cpu_seconds_of_group(tmp_path / "missing") is None
    assert cpu_seconds_of_group(tmp_path) is None


def test_hostile_process_names_and_vanishing_processes_do_no_harm(tmp_path: Path) -> None:
    group, ticks = os.getpgrp(), os.sysconf("SC_CLK_TCK")
    numbers = " ".join(["0"] * 8 + [str(3 * ticks), str(ticks), "0", "0"])

    def write(pid: int, name: str, of: int) -> None:
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "stat").write_text(f"{pid} ({name}) S 1 {of} {numbers}")

    write(900001, ") R 9 (", group)
    write(900002, "other group", group + 1)
    (tmp_path / "900003").mkdir()
    assert cpu_seconds_of_group(tmp_path) == {900001: 4.0}
