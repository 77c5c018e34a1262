"""Running the gateway inside somebody's event loop: opens registry and store, listens, drains, returns

Installs no signal handler and no logging: who runs it sets the stop event. Knows nothing of how the engine is
started.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import prometheus_client
import uvicorn
from fastapi import FastAPI
from opentelemetry.trace import TracerProvider

from loradock_adapters.errors import StoreError
from loradock_adapters.registry import Registry
from loradock_adapters.store import Store
from loradock_server.base import ServedBase
from loradock_server.gateway.alarms import Alarms
from loradock_server.gateway.app import create_app
from loradock_server.gateway.client_connection import ClientConnection
from loradock_server.gateway.identity import Identity
from loradock_server.gateway.place import ALONE, Place
from loradock_server.gateway.services import Services
from loradock_server.settings import Settings
from loradock_server.telemetry import tracing

KEEP_ALIVE_SECONDS = 75  # longer than the pools of common clients
# After the drain everything was answered or cut; this is for the closing of sockets.
_CLOSE_SECONDS = 5
# Threads wait, for the registry, the disk or a store of limits; Python's default, the cores and four, is soon all taken
# where the registry is frozen, and then who needs it not would wait for it too.
_THREADS = 64

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Started:
    """Handed to `on_started` once requests are answered. `first_admin_key` is set on the very first start only."""

    url: str
    first_admin_key: str | None


async def run_gateway(
    settings: Settings,
    *,
    base: ServedBase,
    engine_token: str,
    stop: asyncio.Event,
    on_started: Callable[[Started], None] | None = None,
    local_key: str | None = None,
    place: Place = ALONE,
    tracer_provider: TracerProvider | None = None,
) -> None:
    """Serve until `stop` is set, then drain for at most `settings.drain_timeout` seconds.

    `local_key` is an admin key that is good as long as this call runs and is stored nowhere by it. `place` is for one
    of several workers.
    Raises RegistryError, TracingError or OSError (the port is taken) before anything is served.
    """
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_THREADS, "gateway"))
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]  # series nobody reads
    provider = tracer_provider or tracing.build_tracer_provider("loradock-gateway")
    registry = await asyncio.to_thread(Registry.open, settings.registry)
    store = settings.open_store()
    identity = await asyncio.to_thread(Identity.take, settings.home)
    try:
        chosen = settings.admin_key.get_secret_value() if settings.admin_key else None
        first_key = await asyncio.to_thread(registry.keys.ensure_admin, chosen)
        app = create_app(
            settings,
            registry,
            store,
            base.model,
            engine_token,
            base_name=base.served_name,
            local_key=local_key,
            gateway_id=identity.id,
            place=place,
            tracer_provider=provider,
        )
        # The lifespan is entered here and not by uvicorn, which would answer a failure by leaving the process.
        with place.listener or listening(settings.host, settings.port) as listener:
            async with app.router.lifespan_context(app), _served(app, listener, settings.client_timeout) as serving:
                if place.first:
                    app.state.services.background.start(_sweep(store))
                if on_started is not None:
                    on_started(Started(url_of(listener), first_key))
                await _until_stopped(stop, serving)
                await _drain(app.state.services, settings.drain_timeout)
    finally:
        identity.release()
        await asyncio.to_thread(registry.close)
        if tracer_provider is None:
            await asyncio.to_thread(tracing.shut_down, provider)


async def _sweep(store: Store) -> None:
    """Beside the first requests: a bucket takes its time, and without it what is loaded is served all the same."""
    try:
        await asyncio.to_thread(store.sweep)
    except StoreError as error:
        _log.error("%s; until it can, nothing is registered and nothing is loaded that was not before", error)


class _Server(uvicorn.Server):
    """Uvicorn without its signal handlers: the event loop belongs to somebody else."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def _served(app: FastAPI, listener: socket.socket, client_timeout: float) -> AsyncIterator[asyncio.Task[None]]:
    """Answer on this socket inside the block; yields the task that does, which only ends early on a failure."""

    class Connection(ClientConnection):
        patience_seconds = client_timeout
        keep_alives = Alarms(KEEP_ALIVE_SECONDS)
        direct = app.state.direct

    server = _Server(
        uvicorn.Config(
            app,
            http=Connection,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=_CLOSE_SECONDS,
        )
    )
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield serving
        server.should_exit = True
        await serving
    finally:
        serving.cancel()


async def _until_stopped(stop: asyncio.Event, serving: asyncio.Task[None]) -> None:
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({stopping, serving}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()


async def _drain(services: Services, timeout_seconds: float) -> None:
    # From here on /readyz is 503 and new requests are turned away; the listener stays open to say so.
    services.drain.begin()
    if await services.drain.idle(timeout_seconds):
        return
    _log.warning("%d requests ran past the drain timeout of %s s", services.drain.in_flight, timeout_seconds)
    services.engine.cut()
    await services.drain.idle(_CLOSE_SECONDS)


def listening(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A listening socket; `shared`: several on one port, among which the kernel divides the connections.

    Raises OSError when the port is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=2048, reuse_port=shared)


def url_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
