"""Several gateway processes on one port: started, watched, started again when one dies, stopped together.

Each worker is a whole gateway with a listening socket of its own on the same port (SO_REUSEPORT). The sockets belong to
the parent, so that connections to a worker that died wait for the next in its place. It answers no request and counts
nothing; what a worker is told, and how it says that it answers, is in `Orders` and `READY`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import secrets
import shutil
import signal
import socket
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client.multiprocess import mark_process_dead

from loradock_adapters.registry import Registry
from loradock_server.base import ServedBase
from loradock_server.gateway.server import Started, listening, url_of
from loradock_server.settings import Settings

READY = b"ready\n"
METRICS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
START_SECONDS = 120.0
SLOWEST_RESTART_SECONDS = 5.0
# A worker that ran so long was healthy: its death is not the last one's consequence.
_HEALTHY_SECONDS = 30.0
_KILL_SECONDS = 10.0

_log = logging.getLogger(__name__)


class WorkerFailed(RuntimeError):
    """A worker ended before it ever answered; its own last words are in the log."""


@dataclass(frozen=True, slots=True)
class Orders:
    """What a worker reads from its standard input, pickled, by the process that started it and nobody else.

    That pipe's end is the parent's: a worker drains and leaves when it is closed.
    """

    settings: Settings
    base_folder: Path
    served_name: str
    engine_token: str
    local_key: str | None
    number: int
    listener: int
    metrics: Path
    family: str


async def run_workers(
    settings: Settings,
    *,
    base: ServedBase,
    engine_token: str,
    stop: asyncio.Event,
    command: Sequence[str],
    on_started: Callable[[Started], None] | None = None,
    local_key: str | None = None,
) -> None:
    """As `run_gateway`, by `settings.workers` processes, each started by `command`.

    Raises what run_gateway does, and WorkerFailed.
    """
    first_key = await asyncio.to_thread(_prepare_registry, settings)
    metrics = _empty_folder(settings.run_dir / "metrics")
    with ExitStack() as held:
        listeners = _listeners(settings, held)
        family = secrets.token_hex(16)
        workers = [
            _Worker(
                Orders(
                    settings,
                    base.model.folder,
                    base.served_name,
                    engine_token,
                    local_key,
                    number,
                    listener.fileno(),
                    metrics,
                    family,
                ),
                command,
                len(listeners),
            )
            for number, listener in enumerate(listeners, 1)
        ]
        keeping = [asyncio.create_task(worker.keep(stop), name=f"worker {worker.number}") for worker in workers]
        stopping = asyncio.create_task(stop.wait())
        answering = asyncio.create_task(_all(worker.answers for worker in workers))
        waited: set[asyncio.Future[Any]] = {answering, stopping, *keeping}
        try:
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if answering.done() and not stop.is_set():
                if on_started is not None:
                    on_started(Started(url_of(listeners[0]), first_key))
                await asyncio.wait({stopping, *keeping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            answering.cancel()
            stopping.cancel()
            stop.set()
            for worker in workers:
                worker.terminate()
            # From here on a worker's socket is gone with it, and nobody is sent there by the kernel.
            held.close()
            await asyncio.gather(*keeping, return_exceptions=True)
    for task in keeping:
        task.result()


async def _all(futures: Iterable[asyncio.Future[None]]) -> None:
    for future in futures:
        await future


class _Worker:
    """One place among the workers, and the process that fills it now."""

    def __init__(self, orders: Orders, command: Sequence[str], workers: int) -> None:
        self.number = orders.number
        self.answers: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._orders = orders
        self._command = command
        self._workers = workers
        self._process: Process | None = None

    async def keep(self, stop: asyncio.Event) -> None:
        """Have a process there until `stop`. Raises WorkerFailed if the first one never answers."""
        pause = 0.1
        loop = asyncio.get_running_loop()
        while not stop.is_set():
            began = loop.time()
            process = await self._start()
            try:
                await self._heard(process)
                code = await process.wait()
            except asyncio.CancelledError:
                process.kill()
                raise
            finally:
                mark_process_dead(process.pid, str(self._orders.metrics))  # type: ignore[no-untyped-call]
            if stop.is_set():
                return
            if not self.answers.done():
                raise WorkerFailed(f"worker {self.number} ended with {code} before it answered; see the log above")
            pause = 0.1 if loop.time() - began > _HEALTHY_SECONDS else min(pause * 2, SLOWEST_RESTART_SECONDS)
            _log.error("worker %d ended with %s; another one takes its place in %.1f s", self.number, code, pause)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await stop.wait()

    def terminate(self) -> None:
        """Let it drain and leave; after the drain timeout, and some time to close, it is killed."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        patience = self._orders.settings.drain_timeout + _KILL_SECONDS
        asyncio.get_running_loop().call_later(patience, _kill, process)

    async def _start(self) -> Process:
        process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=PIPE,
            stdout=PIPE,
            pass_fds=(self._orders.listener,),
            env={**os.environ, METRICS_VARIABLE: str(self._orders.metrics)},
            start_new_session=True,  # a Ctrl-C is the parent's, who tells them
        )
        self._process = process
        assert process.stdin is not None
        process.stdin.write(pickle.dumps(self._orders))
        with suppress(ConnectionError):
            await process.stdin.drain()
        return process

    async def _heard(self, process: Process) -> None:
        assert process.stdout is not None
        with suppress(TimeoutError):
            async with asyncio.timeout(START_SECONDS):
                if await process.stdout.readline() == READY:
                    if not self.answers.done():
                        self.answers.set_result(None)
                    return
        _kill(process)


def _kill(process: Process) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.kill()


def _prepare_registry(settings: Settings) -> str | None:
    """Once, before there are many: the schema, and the first admin key, if it is new."""
    registry = Registry.open(settings.registry)
    try:
        return registry.keys.ensure_admin(settings.admin_key.get_secret_value() if settings.admin_key else None)
    finally:
        registry.close()


def _empty_folder(path: Path) -> Path:
    """What workers of an earlier start counted is theirs: counters begin at nought."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True, mode=0o700)
    return path


def _listeners(settings: Settings, held: ExitStack) -> list[socket.socket]:
    """One for each worker, on one port. Raises OSError when somebody else is on it, sharing or not."""
    with listening(settings.host, settings.port) as alone:
        port = alone.getsockname()[1]
    return [held.enter_context(listening(settings.host, port, shared=True)) for _ in range(settings.workers)]
