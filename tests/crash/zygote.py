"""Starts gateways fast enough to be killed by the hundred: everything is imported once, then each one is a fork.

    python -m tests.crash.zygote

Each line on its input is an order, {"flags": {settings}, "base": folder}; each gateway says {"pid", "url"} on the
output once it answers. What is forked is the real gateway with its sockets, registry and store; only the imports are
shared.
Gateways die with this process, which dies with its parent.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from opentelemetry.sdk.trace import TracerProvider

from loradock_adapters.base_model import BaseModel
from loradock_server.base import ServedBase
from loradock_server.gateway.server import Started, run_gateway
from loradock_server.settings import load_settings

TOKEN = "between-the-two"
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    _die_with_parent()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries them
    gc.freeze()
    for line in sys.stdin:
        if os.fork() == 0:
            try:
                _serve(json.loads(line))
            except BaseException:  # noqa: BLE001 nothing of the parent's must run in the child
                traceback.print_exc()
            finally:
                os._exit(1)


def _serve(order: dict[str, Any]) -> None:
    _die_with_parent()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    base = BaseModel.read(Path(order["base"]))
    settings = load_settings(**order["flags"])

    def say(started: Started) -> None:
        os.write(1, (json.dumps({"pid": os.getpid(), "url": started.url}) + "\n").encode())

    async def serve() -> None:
        await run_gateway(
            settings,
            base=ServedBase(base, base.name),
            engine_token=TOKEN,
            stop=asyncio.Event(),
            on_started=say,
            tracer_provider=TracerProvider(),
        )

    asyncio.run(serve())


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


if __name__ == "__main__":
    main()
