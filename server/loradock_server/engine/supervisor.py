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
from typing import IO

from loradock_server import wire

from .exits import explain
from .launch import LaunchOrder, process_environment
from .prober import answers

log = logging.getLogger("loradock.supervisor")

FIRST_DELAY_SECONDS = 0.5
LONGEST_DELAY_SECONDS = 30.0
# Unanswered probes in a row that make a hang. Counted, not timed: a machine that slept shows at most one.
STRIKES = 3
# Given to an engine past its own drain timeout before it is killed.
STOP_GRACE_SECONDS = 10.0
ENTRY = ("-m", "loradock_server.engine.process")


class Supervisor:
    """Runs engine processes one after the other until told to stop.

    `order`: the first launch order; each process gets its own generation and the number of restarts so far.
    `log_file`: where the engine's own output goes; None: to ours. `on_exit`: told the exit status of each process.
    """

    def __init__(
        self,
        order: LaunchOrder,
        *,
        log_file: Path | None = None,
        on_exit: Callable[[int], None] | None = None,
        command: tuple[str, ...] = (sys.executable, *ENTRY),
    ) -> None:
        self._order = order
        self._log_file = log_file
        self._on_exit = on_exit
        self._command = command
        self.restarts = 0
        self.process: asyncio.subprocess.Process | None = None
        self._served = False  # whether the present process has ever answered

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set; then the engine is told to drain and waited for."""
        stopping = asyncio.create_task(stop.wait())
        delay = FIRST_DELAY_SECONDS
        try:
            while not stop.is_set():
                status = await self._run_one(stopping)
                if stop.is_set():
                    return
                if self._served:
                    # It could be started well, so its end is news and not a loop.
                    delay = FIRST_DELAY_SECONDS
                self.restarts += 1
                log.error("engine exited with %s; starting a new one in %.1f s", explain(status), delay)
                if self._on_exit:
                    self._on_exit(status)
                await asyncio.wait({stopping}, timeout=delay)
                delay = min(delay * 2, LONGEST_DELAY_SECONDS)
        finally:
            stopping.cancel()

    async def _run_one(self, stopping: asyncio.Task[bool]) -> int:
        order = replace(self._order, generation=uuid.uuid4().hex, restarts=self.restarts)
        with self._output() as output:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=process_environment(order.cache_root, cpu_kernel=order.cpu_kernel),
                start_new_session=True,  # a process group of its own, so that nothing of it can survive it
            )
        self.process = process
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
                log.error("the engine hangs: %s; ending it", hung.result())
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
                self._served, strikes = True, 0
            elif self._served:
                strikes += 1
                if strikes == STRIKES:
                    return f"no answer on {wire.LIVE} for {self._order.hang_timeout:.0f} s"
            elif time.monotonic() - began > self._order.start_timeout:
                return f"it has been starting for {self._order.start_timeout:.0f} s"
            await asyncio.sleep(max(0.0, asked + period - time.monotonic()))

    @contextlib.contextmanager
    def _output(self):  # type: ignore[no-untyped-def]  # a file, or None for "inherit"
        if self._log_file is None:
            yield None
            return
        self._log_file.parent.mkdir(parents=True, exist_ok=True)
        handle: IO[bytes]
        with self._log_file.open("ab") as handle:
            yield handle


def end_group(group: int) -> None:
    """Kill what is left of a process group: vLLM's core and workers outlive a killed API process."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
