"""HTTP/1.1 to the engine for inference: POSTs over pooled connections, one at a time on each, answers as they come.

Here because aiohttp, which everything else on that line uses, takes longer over a request than the whole gateway may.
llhttp (httptools) does the parsing, asyncio the sockets; what is ours is a pool, timeouts and back pressure. It knows
no redirects, cookies, compression or pipelining, and nothing of what the bytes mean.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Mapping
from typing import cast
from urllib.parse import urlsplit

import httptools

from loradock_server.gateway.alarms import Alarm, Alarms

# Shorter than the engine's own (vLLM: 5 s), so that mostly we are the side that closes an idle connection.
KEEP_ALIVE_SECONDS = 3.0
# What may lie here unread of one answer before the engine is made to wait.
BUFFER_BYTES = 1 << 18
_HEAD_BYTES = 1 << 16
# A connection that the engine closed while it lay idle fails at once; later failures are the request's own.
_STALE_SECONDS = 0.1


class LineError(Exception):
    """The line failed; the classes say when."""


class NotConnected(LineError):
    """Nobody took a connection; no byte was sent."""


class ConnectTooSlow(NotConnected):
    """Nobody took one in time."""


class HungUp(LineError):
    """The connection ended before anything of an answer was here."""


class BrokenOff(LineError):
    """It ended, or went wrong, in the middle of an answer."""


class NotHttp(LineError):
    """What came is no HTTP answer."""


class TotalTooLong(TimeoutError):
    """The whole request took longer than allowed."""


class PauseTooLong(TimeoutError):
    """Nothing came for longer than allowed."""


class Reply:
    """One answer: `status` and `headers` (by lower-case name) are there, the content comes."""

    __slots__ = (
        "_connection",
        "_deadline",
        "_heard",
        "_loop",
        "_pause",
        "_parts",
        "_size",
        "_timer",
        "_waiter",
        "began",
        "complete",
        "error",
        "headers",
        "status",
    )

    def __init__(self, line: EngineLine, connection: _Connection, loop: asyncio.AbstractEventLoop, pause: float | None):
        self._connection = connection
        self._loop = loop
        self._parts: list[bytes] = []
        self._size = 0
        self._waiter: asyncio.Future[None] | None = None
        self._heard = loop.time()
        self._deadline = self._heard + line.total_seconds
        self._pause = pause
        self._timer: asyncio.TimerHandle | Alarm = (
            line.deadlines.start(self._check) if pause is None else loop.call_at(self._due(), self._check)
        )
        self.status = 0
        self.headers: dict[str, str] = {}
        self.began = False
        self.complete = False
        self.error: Exception | None = None

    async def read(self) -> bytes:
        """What came since the last time, at least a byte; empty at the end. Raises LineError, TimeoutError."""
        while not self._parts:
            if self.error is not None:
                raise self.error
            if self.complete:
                return b""
            await self.something()
        return self._take()

    def rest(self) -> bytes | None:
        """What `read` would still give, if its end is here already."""
        return self._take() if self.complete else None

    def _take(self) -> bytes:
        data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        self._size = 0
        if self._connection.paused:
            self._heard = self._loop.time()
            self._connection.resume()
        return data

    def limit_pause(self, seconds: float) -> None:
        """From now on so long may nothing come. While we make the engine wait, that does not count."""
        self._pause = seconds
        self._heard = self._loop.time()
        if not self.complete and self.error is None:
            self._timer.cancel()
            self._timer = self._loop.call_at(self._due(), self._check)

    def close(self) -> None:
        """Let go of it; what has not come yet is not wanted any more, and the engine notices that."""
        if not self.complete:
            self._timer.cancel()
            self._connection.abort()

    def feed(self, data: bytes) -> None:
        self._parts.append(data)
        self._size += len(data)
        if self._size > BUFFER_BYTES:
            self._connection.pause()

    def finish(self) -> None:
        self.complete = True
        self._timer.cancel()

    def fail(self, error: Exception) -> None:
        if self.error is None and not self.complete:
            self.error = error
            self._timer.cancel()
            self.wake()

    def heard(self) -> None:
        if self._pause is not None:
            self._heard = self._loop.time()

    def wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def something(self) -> asyncio.Future[None]:
        """Done when something came, or went wrong; for one who waits at a time."""
        self._waiter = self._loop.create_future()
        return self._waiter

    def _due(self) -> float:
        return self._deadline if self._pause is None else min(self._deadline, self._heard + self._pause)

    def _check(self) -> None:
        now = self._loop.time()
        if now >= self._deadline:
            self._give_up(TotalTooLong())
            return
        if self._connection.paused:
            self._heard = now
        if self._pause is not None and now >= self._heard + self._pause:
            self._give_up(PauseTooLong())
            return
        self._timer = self._loop.call_at(self._due(), self._check)

    def _give_up(self, error: TimeoutError) -> None:
        self.fail(error)
        self._connection.abort()


class _Connection(asyncio.Protocol):
    """One connection, and the answer that is coming on it. The callbacks of asyncio and of the parser are methods."""

    def __init__(self, line: EngineLine) -> None:
        self._line = line
        self._parser = httptools.HttpResponseParser(self)
        self._reply: Reply | None = None
        self._head_bytes = 0
        self._ends_with_connection = False
        self.paused = False
        self.closed = False
        self.used = False
        self.idle_since = 0.0

    def request(self, data: bytes, reply: Reply) -> None:
        self._reply = reply
        self._transport.write(data)

    def pause(self) -> None:
        if not self.paused and not self.closed:
            self.paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        self.paused = False
        if not self.closed:
            self._transport.resume_reading()

    def abort(self) -> None:
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        reply = self._reply
        if reply is None:  # nobody asked
            self.abort()
            return
        reply.heard()
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            reply.fail(BrokenOff(str(error)) if reply.began else NotHttp(str(error)))
            self.abort()
        if not reply.began:
            # The parser tells of whole headers only; one without end would grow in there.
            self._head_bytes += len(data)
            if self._head_bytes > _HEAD_BYTES:
                reply.fail(NotHttp("the head is too long"))
                self.abort()
        reply.wake()

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        self._line.lost(self)
        reply, self._reply = self._reply, None
        if reply is None:
            return
        if reply.began and self._ends_with_connection and error is None:
            reply.finish()
            reply.wake()
        else:
            reply.fail((BrokenOff if reply.began else HungUp)(str(error or "the connection was closed")))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > _HEAD_BYTES:
            raise ValueError("the head is too long")
        if self._reply is not None:
            self._reply.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        reply = self._reply
        if reply is None:
            raise ValueError("an answer that nobody asked for")
        self._head_bytes = 0
        reply.status = self._parser.get_status_code()
        if reply.status < 200:
            reply.headers.clear()
            return
        self._ends_with_connection = not reply.headers.keys() & {"content-length", "transfer-encoding"}
        reply.began = True

    def on_body(self, body: bytes) -> None:
        if self._reply is not None:
            self._reply.feed(body)

    def on_message_complete(self) -> None:
        reply = self._reply
        if reply is None or not reply.began:  # 100 Continue and its like
            return
        self._reply = None
        reply.finish()
        keep = self._parser.should_keep_alive() and self._transport.get_write_buffer_size() == 0
        self._line.done(self, keep and not self.closed)


class EngineLine:
    """The pool. `headers` go with every request, `connect` is how many seconds the engine may take for a connection,
    and `total` how many for a request altogether.
    """

    def __init__(self, address: str, headers: Mapping[str, str], *, connect: float, total: float) -> None:
        self._unix, self._url = parse_address(address)
        url = urlsplit(self._url)
        self._host, self._prefix = url.hostname or "", url.path
        self._port = url.port or (443 if url.scheme == "https" else 80)
        self._tls = ssl.create_default_context() if url.scheme == "https" else None
        self._start = f" HTTP/1.1\r\nhost: {url.netloc}\r\n{_lines(headers)}"
        self._connect_seconds = connect
        self.total_seconds = total
        self.deadlines = Alarms(total)
        self._idle: list[_Connection] = []
        self._all: set[_Connection] = set()
        self._sweep: asyncio.TimerHandle | None = None

    @property
    def connections(self) -> int:
        """How many there are, idle ones too."""
        return len(self._all)

    async def post(self, path: str, body: bytes, headers: Mapping[str, str], *, pause: float | None) -> Reply:
        """Send a request and wait until its answer begins; `close` the reply in any case.

        It is sent once more only where that is safe: if there was no connection, or if it was an old one that the
        engine had closed before it read anything. Raises LineError; TimeoutError when it takes too long
        altogether, or after `pause` seconds without a byte.
        """
        text = f"POST {self._prefix}{path}{self._start}{_lines(headers)}content-length: {len(body)}\r\n\r\n"
        data = text.encode("latin-1") + body
        started = time.monotonic()
        connection = self._take()
        if connection is None:
            try:
                connection = await self._open()
            except ConnectTooSlow:
                raise
            except NotConnected:
                connection = await self._open()
        try:
            return await self._ask(connection, data, pause)
        except HungUp:
            if not connection.used or time.monotonic() - started > _STALE_SECONDS:
                raise
        return await self._ask(await self._open(), data, pause)

    async def _ask(self, connection: _Connection, data: bytes, pause: float | None) -> Reply:
        reply = Reply(self, connection, asyncio.get_running_loop(), pause)
        connection.request(data, reply)
        try:
            while not reply.began:
                if reply.error is not None:
                    raise reply.error
                await reply.something()
        except BaseException:
            reply.close()
            raise
        return reply

    def close(self) -> None:
        """End every connection."""
        if self._sweep is not None:
            self._sweep.cancel()
        for connection in list(self._all):
            connection.abort()

    def _take(self) -> _Connection | None:
        oldest = time.monotonic() - KEEP_ALIVE_SECONDS
        while self._idle:
            connection = self._idle.pop()
            if connection.idle_since >= oldest and not connection.closed:
                return connection
            connection.abort()
        return None

    async def _open(self) -> _Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_seconds):
                if self._unix is not None:
                    _, connection = await loop.create_unix_connection(lambda: _Connection(self), self._unix)
                else:
                    _, connection = await loop.create_connection(
                        lambda: _Connection(self), self._host, self._port, ssl=self._tls
                    )
        except TimeoutError as error:
            raise ConnectTooSlow(f"no connection within {self._connect_seconds:g} s") from error
        except OSError as error:
            raise NotConnected(str(error)) from error
        self._all.add(connection)
        return connection

    def done(self, connection: _Connection, reusable: bool) -> None:
        if not reusable:
            connection.abort()
            return
        connection.used = True
        connection.idle_since = time.monotonic()
        self._idle.append(connection)
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(KEEP_ALIVE_SECONDS, self._close_idle)

    def lost(self, connection: _Connection) -> None:
        self._all.discard(connection)
        if connection.idle_since and connection in self._idle:
            self._idle.remove(connection)

    def _close_idle(self) -> None:
        self._sweep = None
        oldest = time.monotonic() - KEEP_ALIVE_SECONDS
        stale = [connection for connection in self._idle if connection.idle_since < oldest]
        self._idle = [connection for connection in self._idle if connection.idle_since >= oldest]
        for connection in stale:
            connection.abort()
        if self._idle:
            self._sweep = asyncio.get_running_loop().call_later(KEEP_ALIVE_SECONDS / 2, self._close_idle)


def parse_address(address: str) -> tuple[str | None, str]:
    """Socket path and URL base of `unix:/path`, `http://host:port` or `https://host:port`."""
    if address.startswith("unix:"):
        return address.removeprefix("unix:"), "http://engine"
    if address.startswith(("http://", "https://")):
        return None, address.rstrip("/")
    raise ValueError(f"engine address {address!r} is not unix:/path or http://host:port (LORADOCK_ENGINE_URL)")


def _lines(headers: Mapping[str, str]) -> str:
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    if lines.count("\n") != len(headers) or lines.count("\r") != len(headers):
        raise ValueError("a header to the engine has a line break in it")
    return lines
