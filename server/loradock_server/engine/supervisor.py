"""Keeps one engine process running: starts it, notices its end or its silence, cleans up, starts the next.

Knows processes and nothing of vLLM. Desired state needs no carrying over: a new engine loads adapters on demand.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from loradock_server import wire

from .exits import explain
from .launch import LaunchOrder, process_environment
from .prober import answers
from .start_failure import StartFailure, explain_start
from .start_log import Passing, StartLog

log = logging.getLogger("loradock.supervisor")

FIRST_DELAY_SECONDS = 0.5
LONGEST_DELAY_SECONDS = 30.0
# Unanswered probes in a row that make a hang. Counted, not timed: a machine that slept shows at most one.
STRIKES = 3
# Given to an engine past its own drain timeout before it is killed.
STOP_GRACE_SECONDS = 10.0
# Of an engine that has never served: what may pass by itself is tried so often. One that has served is always replaced.
STARTS_TRIED = 3
VMSTAT = Path("/proc/vmstat")
ENTRY = ("-m", "loradock_server.engine.process")


class EngineCannotStart(Exception):
    """The first engine never served, and trying on would not mend it; `failure` says why. `tries`: starts so far."""

    def __init__(self, failure: StartFailure, tries: int) -> None:
        super().__init__(failure.cause)
        self.failure = failure
        self.tries = tries


class Supervisor:
    """Runs engine processes one after the other until told to stop.

    `order`: the first launch order; each process gets its own generation and the number of restarts so far.
    `log`: where the engine's own output goes; by default to our standard error. `on_exit`: told the exit status of each
    process.
    """

    def __init__(
        self,
        order: LaunchOrder,
        *,
        log: StartLog | None = None,
        on_exit: Callable[[int], None] | None = None,
        command: tuple[str, ...] = (sys.executable, *ENTRY),
    ) -> None:
        self._order = order
        self._log: StartLog = log if log is not None else Passing()
        self._on_exit = on_exit
        self._command = command
        self.restarts = 0
        self.process: asyncio.subprocess.Process | None = None
        self._served = False  # whether the present process has ever answered
        self._ever_served = False
        self._hang: str | None = None  # why the last process was ended, if it was for that

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set; then the engine is told to drain and waited for. Raises EngineCannotStart."""
        stopping = asyncio.create_task(stop.wait())
        delay = FIRST_DELAY_SECONDS
        try:
            while not stop.is_set():
                killed_before = killed_for_memory()
                status = await self._run_one(stopping)
                if stop.is_set():
                    return
                why = explain(status)
                if self._on_exit:
                    self._on_exit(status)
                if self._served:
                    # It could be started well, so its end is news and not a loop.
                    delay = FIRST_DELAY_SECONDS
                else:
                    failure = explain_start(
                        await asyncio.to_thread(self._log.text),
                        status,
                        killed_for_memory=killed_for_memory() > killed_before,
                        hang=self._hang,
                    )
                    if not self._ever_served and not (failure.passing and self.restarts + 1 < STARTS_TRIED):
                        raise EngineCannotStart(failure, self.restarts + 1)
                    why += f": {failure.cause}"
                self.restarts += 1
                log.error("engine exited with %s; starting a new one in %.1f s", why, delay)
                await asyncio.wait({stopping}, timeout=delay)
                delay = min(delay * 2, LONGEST_DELAY_SECONDS)
        finally:
            stopping.cancel()

    async def _run_one(self, stopping: asyncio.Task[bool]) -> int:
        order = replace(self._order, generation=uuid.uuid4().hex, restarts=self.restarts)
        with self._log.begin() as output:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=process_environment(order.cache_root, cpu_kernel=order.cpu_kernel),
                start_new_session=True,  # a process group of its own, so that nothing of it can survive it
            )
        self.process, self._hang = process, None
        assert process.stdin is not None
        exited = asyncio.create_task(process.wait())
        hung = asyncio.create_task(self._hung())
        try:
            process.stdin.write(order.to_json().encode() + b"\n")
            with contextlib.suppress(ConnectionError):
                await process.stdin.drain()
            await asyncio.wait({exited, stopping, hung}, return_when=asyncio.FIRST_COMPLETED)
            if exited.done():
                return exited.result()
            if hung.done():
                self._hang = hung.result()
                log.error("the engine hangs: %s; ending it", self._hang)
            else:
                await self._stop(process, exited)
            end_group(process.pid)
            return await exited
        finally:
            hung.cancel()
            self.process = None
            end_group(process.pid)

    async def _stop(self, process: asyncio.subprocess.Process, exited: asyncio.Task[int]) -> None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        # The engine drains by itself; past that it hangs.
        patience = self._order.drain_timeout + STOP_GRACE_SECONDS
        done, _ = await asyncio.wait({exited}, timeout=patience)
        if not done:
            log.error("the engine did not stop within %.0f s; ending it", patience)

    async def _hung(self) -> str:
        """Return once the process is there but does not answer, with the reason in words."""
        self._served = False
        period = self._order.hang_timeout / (STRIKES + 1)  # the first probe may come a whole period after the hang
        began, strikes = time.monotonic(), 0
        while True:
            asked = time.monotonic()
            if await answers(self._order.address, period):
                self._served = self._ever_served = True
                strikes = 0
            elif self._served:
                strikes += 1
                if strikes == STRIKES:
                    return f"no answer on {wire.LIVE} for {self._order.hang_timeout:.0f} s"
            elif time.monotonic() - began > self._order.start_timeout:
                return f"it has been starting for {self._order.start_timeout:.0f} s"
            await asyncio.sleep(max(0.0, asked + period - time.monotonic()))


def end_group(group: int) -> None:
    """Kill what is left of a process group: vLLM's core and workers outlive a killed API process."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def killed_for_memory(vmstat: Path = VMSTAT) -> int:
    """How many processes of this machine, containers included, the kernel has killed for want of memory since boot."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(vmstat.read_text().split("\noom_kill ", 1)[1].split(None, 1)[0])
    return 0
