"""`loradock serve`, `gateway` and `engine`: the long-running commands, from settings to a clean stop.

Only here do gateway and engine meet. The words and progress lines are for people; what runs is in the packages below.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from loradock_server.cli import starting
from loradock_server.cli.errors import CommandError, NotDone, Unreadable
from loradock_server.cli.home import read_settings
from loradock_server.cli.output import answering
from loradock_server.settings import Settings
from loradock_server.telemetry.logs import configure_logging

log = logging.getLogger(__name__)

Home = Annotated[Path | None, typer.Option("--home", help="Folder that holds all state (LORADOCK_HOME).")]
Model = Annotated[str | None, typer.Option("--model", help="Base model: the bundled one, a local folder, or a hub id.")]
Port = Annotated[int | None, typer.Option("--port", help="Port of the gateway (LORADOCK_PORT).")]
Workers = Annotated[
    int | None, typer.Option("--workers", help="Gateway processes on that port (LORADOCK_WORKERS); one serves most.")
]
Host = Annotated[str | None, typer.Option("--host", help="Address of the gateway (LORADOCK_HOST).")]
AdaptersFrom = Annotated[
    Path | None,
    typer.Option(
        "--adapters-from",
        help="Register every adapter below this folder (NAME/adapter/) once the server runs.",
    ),
]


def serve(
    home: Home = None,
    model: Model = None,
    host: Host = None,
    port: Port = None,
    workers: Workers = None,
    adapters_from: AdaptersFrom = None,
) -> None:
    """Run gateway and engine together on this machine, until Ctrl-C."""
    with answering(as_json=False):
        settings = _settings(home=home, model=model, host=host, port=port, workers=workers)
        _require_vllm()
        from loradock_server.cli.together import serve_together

        with starting.uncollected():
            run_async(lambda stop: serve_together(settings, adapters_from, stop))


def gateway(
    home: Home = None, model: Model = None, host: Host = None, port: Port = None, workers: Workers = None
) -> None:
    """Run the gateway alone; LORADOCK_ENGINE_URL and LORADOCK_ENGINE_TOKEN say where its engine is."""
    with answering(as_json=False):
        settings = _settings(home=home, model=model, host=host, port=port, workers=workers)
        token = _require_token(settings)
        from loradock_server.cli.find_base import open_base
        from loradock_server.cli.gateways import run_gateways

        with starting.uncollected():
            base = open_base(settings)
            run_async(
                lambda stop: run_gateways(
                    settings, base=base, engine_token=token, stop=stop, on_started=lambda _: starting.done()
                )
            )


def engine(home: Home = None, model: Model = None) -> None:
    """Run one supervised engine; it listens on LORADOCK_ENGINE_URL and answers only LORADOCK_ENGINE_TOKEN."""
    with answering(as_json=False):
        settings = _settings(home=home, model=model)
        token = _require_token(settings)
        _require_vllm()
        from loradock_server.cli.engine_start import order_that_fits, supervised
        from loradock_server.cli.find_base import open_base
        from loradock_server.engine.supervisor import Supervisor

        supervisor = Supervisor(order_that_fits(settings, open_base(settings), token, log.info))
        run_async(lambda stop: supervised(supervisor, stop))


def run_async(main: Callable[[asyncio.Event], Awaitable[Any]]) -> None:
    """Run a coroutine on uvloop with a stop event that SIGTERM and Ctrl-C set; a second signal ends at once."""
    import uvloop

    async def with_signals() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()

        def on_signal() -> None:
            if stop.is_set():
                for task in asyncio.all_tasks():
                    task.cancel()
            stop.set()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, on_signal)
        await main(stop)

    try:
        uvloop.run(with_signals())
    except asyncio.CancelledError:
        raise CommandError("stopped at once, on a second signal") from None


def _settings(**flags: Any) -> Settings:
    settings = read_settings(**flags)
    configure_logging(settings.log_format, settings.log_level)
    return settings


def _require_vllm() -> None:
    from importlib.util import find_spec

    if find_spec("vllm") is None:
        raise NotDone("vLLM is not installed", fix="pip install 'loradock[cpu]' or 'loradock[cuda]'")


def _require_token(settings: Settings) -> str:
    if settings.engine_token is None:
        raise Unreadable(
            "gateway and engine need one secret between them",
            fix="set LORADOCK_ENGINE_TOKEN to the same long random text for both",
        )
    return settings.engine_token.get_secret_value()
