"""Keeps one engine process running: starts it, notices its end however it comes, cleans up, starts the next.

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

from .launch import LaunchOrder, process_environment

log = logging.getLogger("loradock.supervisor")

FIRST_DELAY_SECONDS = 0.5
LONGEST_DELAY_SECONDS = 30.0
# An engine that lived this long was healthy: its end is news, not a loop.
HEALTHY_SECONDS = 60.0
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

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set; then the engine is told to drain and waited for."""
        stopping = asyncio.create_task(stop.wait())
        delay = FIRST_DELAY_SECONDS
        try:
            while not stop.is_set():
                began = time.monotonic()
                status = await self._run_one(stopping)
                if stop.is_set():
                    return
                if time.monotonic() - began > HEALTHY_SECONDS:
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
                env=process_environment(),
                start_new_session=True,  # a process group of its own, so that nothing of it can survive it
            )
        self.process = process
        assert process.stdin is not None
        try:
            process.stdin.write(order.to_json().encode() + b"\n")
            exited = asyncio.create_task(process.wait())
            with contextlib.suppress(ConnectionError):
                await process.stdin.drain()
            await asyncio.wait({exited, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not exited.done():
                await self._stop(process, exited)
            return await exited
        finally:
            self.process = None
            end_group(process.pid)

    async def _stop(self, process: asyncio.subprocess.Process, exited: asyncio.Task[int]) -> None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        # The engine drains by itself; past that it hangs.
        await asyncio.wait({exited}, timeout=self._order.drain_timeout + 10)

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


def explain(status: int) -> str:
    """An exit status in words: `signal SIGKILL` or `status 70`."""
    if status < 0:
        with contextlib.suppress(ValueError):
            return f"signal {signal.Signals(-status).name}"
    return f"status {status}"
