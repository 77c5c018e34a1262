"""Every name of uvicorn that is nobody's to use but its own, in one place: its HTTP/1.1 protocol on httptools.

`ClientConnection` and `DirectCycle` are subclasses of two of them, and read and set what those keep on themselves.
What that is, tests/server/gateway/test_uvicorn_names.py takes from their code and looks for in the installed uvicorn;
the bounds in pyproject.toml are the versions in which all of it was found.
"""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.types import ASGIApp
from uvicorn._types import ASGISendEvent, HTTPResponseBodyEvent, HTTPResponseStartEvent
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

__all__ = [
    "STATUS_LINE",
    "ASGISendEvent",
    "HTTPResponseBodyEvent",
    "HTTPResponseStartEvent",
    "HttpToolsProtocol",
    "RequestResponseCycle",
    "start",
]


def start(protocol: HttpToolsProtocol, cycle: RequestResponseCycle, app: ASGIApp) -> None:
    """Run a cycle, and let the protocol's server know of it until it ends.

    Uvicorn does the same in a method that has been there since 0.45 only.
    """
    running: asyncio.Task[Any] = protocol.loop.create_task(cycle.run_asgi(app))  # type: ignore[arg-type]  # each its types
    running.add_done_callback(protocol.tasks.discard)
    protocol.tasks.add(running)
