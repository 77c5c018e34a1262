"""A real HTTP server on a free port that behaves as badly as a test wants: cuts, stalls, redirects, refusals.

Faithful enough for downloads: real sockets, HTTP/1.1, Range and If-Range as RFC 9110 has them.
"""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

Answer = Callable[[BaseHTTPRequestHandler], None]


@dataclass(frozen=True, slots=True)
class Asked:
    """One request; header names in lower case."""

    method: str
    path: str
    query: str
    headers: dict[str, str]


@dataclass(slots=True)
class Web:
    """Answers by path; each list of answers is used up to its last, which stays. `asked` has every request."""

    url: str = ""
    routes: dict[str, list[Answer]] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)

    def on(self, path: str, *answers: Answer) -> str:
        """Set a path's answers and return its whole address."""
        self.routes[path] = list(answers)
        return self.url + path


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is what some tests are about."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


@contextmanager
def running_web() -> Iterator[Web]:
    web = Web()
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            parts = urlsplit(self.path)
            headers = {name.lower(): value for name, value in self.headers.items()}
            with lock:
                web.asked.append(Asked(self.command, parts.path, parts.query, headers))
                answers = web.routes.get(parts.path, [status(404)])
                answer = answers.pop(0) if len(answers) > 1 else answers[0]
            answer(self)

        do_GET = do_HEAD = answer

        def log_message(self, format: str, *args: object) -> None:
            """Tests look at `asked`."""

    server = _Server(("127.0.0.1", 0), Handler)
    web.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def status(code: int, body: bytes = b"", **headers: str) -> Answer:
    """A plain answer; underscores in header names stand for dashes."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        _begin(handler, code, {"content-length": str(len(body)), **_named(headers)})
        if handler.command != "HEAD":
            handler.wfile.write(body)

    return answer


def redirect(to: str, code: int = 302) -> Answer:
    return status(code, location=to)


def file(data: bytes, *, cut: int | None = None, ranges: bool = True, **headers: str) -> Answer:
    """A file. `cut`: say it is whole, send so many bytes of it, and hang up."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        start = _wanted(handler, headers.get("etag")) if ranges else 0
        if start >= len(data) > 0:
            status(416)(handler)
            return
        body = data[start:]
        named = {"content-length": str(len(body)), **_named(headers)}
        if start:
            named["content-range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        _begin(handler, 206 if start else 200, named)
        if handler.command == "HEAD":
            return
        handler.wfile.write(body if cut is None else body[:cut])
        handler.wfile.flush()
        handler.close_connection = cut is not None

    return answer


def stall(gate: threading.Event, data: bytes, *, after: int) -> Answer:
    """Send the beginning of a file, and the rest when the gate opens."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        _begin(handler, 200, {"content-length": str(len(data))})
        handler.wfile.write(data[:after])
        handler.wfile.flush()
        gate.wait(30)
        handler.close_connection = True

    return answer


def _wanted(handler: BaseHTTPRequestHandler, etag: str | None) -> int:
    """Where the answer begins: If-Range makes Range count only for the same version."""
    found = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("range", ""))
    condition = handler.headers.get("if-range")
    return int(found[1]) if found and condition in (None, etag) else 0


def _begin(handler: BaseHTTPRequestHandler, code: int, headers: dict[str, str]) -> None:
    handler.send_response(code)
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.end_headers()


def _named(headers: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}
