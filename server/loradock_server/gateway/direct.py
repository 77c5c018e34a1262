"""One request on a route that is answered directly: uvicorn's cycle without what only other people's routes need.

The same messages in and out, and the same states, which uvicorn's protocol reads. Our routes send a head and what
follows it in good order, never to HEAD; so nothing but line breaks is checked, and an answer is one write. To whoever
looks into the scope it is an `asgi.Direct`.
"""

from __future__ import annotations

from collections.abc import Callable

from loradock_server.gateway.asgi import DIRECT
from loradock_server.gateway.uvicorn_names import (
    STATUS_LINE,
    ASGISendEvent,
    HTTPResponseBodyEvent,
    HTTPResponseStartEvent,
    RequestResponseCycle,
)


class DirectCycle(RequestResponseCycle):
    """Takes one answer: a start with `content-length` and its whole body, or a start and chunks."""

    when_gone: Callable[[], None] | None = None
    _head: bytes | None = None

    @property
    def is_gone(self) -> bool:
        return self.disconnected

    def whole_body(self) -> bytes | None:
        if self.more_body:
            return None
        body, self.body = bytes(self.body), bytearray()
        self.flow.resume_reading()
        return body

    def tell_gone(self) -> None:
        """The client has hung up."""
        if self.when_gone is not None and not self.response_complete:
            self.when_gone()

    async def send(self, message: ASGISendEvent) -> None:
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        if message["type"] == "http.response.start":
            assert not self.response_started
            self._head = self._start(message)
        else:
            assert message["type"] == "http.response.body"
            assert self.response_started
            assert not self.response_complete
            self._continue(message)

    def _start(self, message: HTTPResponseStartEvent) -> bytes:
        """The head, to be sent with the first of the body."""
        self.response_started = True
        self.waiting_for_100_continue = False
        self.chunked_encoding = True
        closes = False
        lines = [STATUS_LINE[message["status"]]]
        for name, value in message["headers"]:
            lines.append(b"%b: %b\r\n" % (name, value))
            if name == b"content-length":
                self.chunked_encoding = False
            elif name == b"connection":
                self.keep_alive, closes = False, True  # we say nothing there but "close"
        if self.chunked_encoding:
            lines.append(b"transfer-encoding: chunked\r\n")
        if not self.keep_alive and not closes:
            lines.append(b"connection: close\r\n")
        head = b"".join(lines)
        if head.count(b"\n") != len(lines) or head.count(b"\r") != len(lines):
            raise RuntimeError("a header of an answer has a line break in it")
        return head + b"\r\n"

    def _continue(self, message: HTTPResponseBodyEvent) -> None:
        data, more = message["body"], message.get("more_body", False)
        if self.chunked_encoding:
            data = b"%x\r\n%b\r\n" % (len(data), data) if data else b""
            if not more:
                data += b"0\r\n\r\n"
        if self._head is not None:
            data, self._head = self._head + data, None
        self.transport.write(data)
        if not more:
            self.response_complete = True
            self.message_event.set()
            self.scope.pop(DIRECT)  # type: ignore[misc]  # else the two keep each other until cycles are looked for
            if not self.keep_alive:
                self.transport.close()
            self.on_response()
