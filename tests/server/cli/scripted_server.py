"""A real HTTP server that answers what a test tells it to and remembers what it was asked.

Faithful enough for the client commands: real sockets, real multipart parsing, the answers in the shapes of
the admin routes. It judges nothing; `test_against_the_gateway.py` does that with the real one.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import Response


@dataclass(frozen=True)
class Seen:
    """One request as it came in; `files` by file name, `json` if the body was that."""

    method: str
    path: str
    headers: Mapping[str, str]
    files: Mapping[str, bytes]
    fields: tuple[str, ...]
    json: Any
    query: Mapping[str, str] = field(default_factory=dict)


@dataclass
class ScriptedServer:
    """Answers in the order they were enqueued; `history` has every request."""

    url: str = ""
    history: list[Seen] = field(default_factory=list)
    answers: list[Response] = field(default_factory=list)

    def enqueue(self, status: int, body: Any, **headers: str) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        content = body if isinstance(body, str) else json.dumps(body)
        named.setdefault("content-type", "text/html" if isinstance(body, str) else "application/json")
        self.answers.append(Response(content, status, named))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        files: dict[str, bytes] = {}
        fields: list[str] = []
        document = None
        if request.headers.get("content-type", "").startswith("multipart/"):
            async with request.form() as form:
                for name, part in form.multi_items():
                    fields.append(name)
                    if isinstance(part, UploadFile):
                        files[part.filename or ""] = await part.read()
        elif body := await request.body():
            document = json.loads(body)
        self.history.append(
            Seen(
                request.method, request.url.path, request.headers, files, tuple(fields), document, request.query_params
            )
        )
        await self.answers.pop(0)(scope, receive, send)


@contextmanager
def running(app: Any) -> Iterator[str]:
    """Serve an ASGI app on a free port of this machine until the block ends; gives its address."""
    server = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=0, ws="none", log_level="error", lifespan="auto")
    )
    started = threading.Event()
    original = server.startup

    async def startup(*arguments: Any, **options: Any) -> None:
        await original(*arguments, **options)
        started.set()

    server.startup = startup  # type: ignore[method-assign]  # uvicorn has no event for "listening"
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert started.wait(120), "the server did not start"
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(120)
