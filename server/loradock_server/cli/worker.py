"""One gateway process among several: `python -m loradock_server.cli.worker`, started by `gateway.workers` only."""

from __future__ import annotations

import asyncio
import pickle
import socket
import sys

from loradock_adapters.base_model import BaseModel
from loradock_server.base import ServedBase
from loradock_server.cli import starting
from loradock_server.cli.serve import run_async
from loradock_server.gateway.place import Place
from loradock_server.gateway.server import run_gateway
from loradock_server.gateway.workers import READY, Orders
from loradock_server.telemetry.logs import configure_logging

COMMAND = (sys.executable, "-P", "-m", "loradock_server.cli.worker")


def main() -> None:
    """Read the orders, serve, and drain at SIGTERM or when the parent is gone."""
    orders = pickle.load(sys.stdin.buffer)
    assert isinstance(orders, Orders)
    settings = orders.settings
    configure_logging(settings.log_format, settings.log_level)
    listener = socket.socket(fileno=orders.listener)
    listener.setblocking(False)
    place = Place(orders.number, settings.workers, listener, orders.metrics, orders.family)

    def started(_: object) -> None:
        starting.done()
        sys.stdout.buffer.write(READY)
        sys.stdout.buffer.flush()

    async def serve(stop: asyncio.Event) -> None:
        # The pipe that the orders came through ends with the parent, however it does.
        asyncio.get_running_loop().add_reader(sys.stdin.fileno(), stop.set)
        await run_gateway(
            settings,
            base=ServedBase(base, orders.served_name),
            engine_token=orders.engine_token,
            stop=stop,
            on_started=started,
            local_key=orders.local_key,
            place=place,
        )

    with starting.uncollected():
        base = BaseModel.read(orders.base_folder)
        run_async(serve)


if __name__ == "__main__":
    main()
