"""Gateway and engine in one go: what `loradock serve` does between its first and its last line.

The gateway answers within a second (503 until the engine is up); while vLLM loads, example adapters are registered
through the same HTTP door that everybody uses.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from loradock_server.cli import starting
from loradock_server.cli.connection import KEY_FILE, SERVER_FILE, Connection
from loradock_server.cli.engine_start import order_that_fits, supervised
from loradock_server.cli.errors import NotDone
from loradock_server.cli.find_base import open_base
from loradock_server.cli.gateways import run_gateways
from loradock_server.cli.greeting import Greeting, Steps, shown
from loradock_server.cli.start_progress import follow_start
from loradock_server.engine.start_log import LogFile
from loradock_server.engine.supervisor import Supervisor
from loradock_server.gateway.server import Started
from loradock_server.settings import Settings


async def serve_together(settings: Settings, adapters_from: Path | None, stop: asyncio.Event) -> None:
    """Run until `stop`. Raises CommandError when the start fails."""
    steps = Steps()
    make_private_folder(settings.run_dir)
    with only_server_of(settings):
        base = await asyncio.to_thread(open_base, settings, say=steps.done)
        steps.done(f"base model {base.served_name} (sha256 {base.model.digest[:12]})")
        token = settings.engine_token.get_secret_value() if settings.engine_token else secrets.token_urlsafe(32)
        order = order_that_fits(settings, base, token, steps.done)
        local_key = f"ld-local-{secrets.token_urlsafe(32)}"
        gateway_stop, engine_stop = asyncio.Event(), asyncio.Event()
        started: asyncio.Future[Started] = asyncio.get_running_loop().create_future()
        gateway = asyncio.create_task(
            run_gateways(
                settings,
                base=base,
                engine_token=token,
                stop=gateway_stop,
                on_started=started.set_result,
                local_key=local_key,
            ),
            name="gateway",
        )
        tasks: list[asyncio.Task[None]] = [gateway]
        try:
            await first_of(gateway, started)
            if gateway.done():
                gateway.result()
            here = started.result()
            starting.done()
            steps.done(f"gateway answers on {here.url}")
            if here.first_admin_key:
                steps.lines("", f"  first admin key, shown only now: {here.first_admin_key}", "")

            engine_log = settings.home / "logs" / "engine.log"
            if settings.engine.startswith("unix:"):
                make_private_folder(Path(settings.engine.removeprefix("unix:")).parent)
            output = LogFile(engine_log)
            supervisor = Supervisor(order, log=output)
            tasks.append(asyncio.create_task(supervised(supervisor, engine_stop, engine_log), name="supervisor"))
            steps.done(f"engine starting: vLLM, log in {shown(engine_log)}")
            following = asyncio.create_task(follow_start(order, output, steps.done), name="progress")

            connection = Connection(here.url, local_key, "this server", settings.run_dir / KEY_FILE)
            with server_file(settings, connection):
                greeting = Greeting(connection, steps, engine_first=settings.smoke_probe == "required")
                greeted = asyncio.create_task(greeting.run(adapters_from), name="greeting")
                stopped = asyncio.create_task(stop.wait(), name="stop")
                try:
                    await first_of(greeted, stopped, *tasks)
                    if greeted.done():
                        greeted.result()
                        await first_of(stopped, *tasks)
                finally:
                    greeted.cancel()
                    stopped.cancel()
                    following.cancel()
        finally:
            # The gateway drains while the engine can still answer; then the engine goes.
            for ending, task in zip((gateway_stop, engine_stop), tasks, strict=False):
                ending.set()
                await asyncio.wait({task})
    for task in tasks:
        task.result()
    steps.done("stopped")


async def first_of(*ways: asyncio.Future[Any]) -> None:
    """Return when one of these is over, however it ended."""
    await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)


@contextlib.contextmanager
def only_server_of(settings: Settings) -> Iterator[None]:
    """Hold the home folder's lock: two servers on one home would fight over sockets and database."""
    with (settings.run_dir / "serve.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise NotDone(
                f"another loradock serve runs from {settings.home}", fix="stop it, or give this one its own --home"
            ) from None
        yield


@contextlib.contextmanager
def server_file(settings: Settings, connection: Connection) -> Iterator[None]:
    """Let the client commands on this machine find the running server and its key, for as long as it runs."""
    files = {
        settings.run_dir / SERVER_FILE: json.dumps({"url": connection.url, "key": connection.key}),
        settings.run_dir / KEY_FILE: connection.key or "",
    }
    for path, text in files.items():
        path.unlink(missing_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
    try:
        yield
    finally:
        for path in files:
            path.unlink(missing_ok=True)


def make_private_folder(path: Path) -> None:
    """Keys and sockets lie here: for this user only."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.chmod(0o700)
