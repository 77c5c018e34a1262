"""What plain ASGI code needs: reading a bounded body, sending an answer, noticing that the client left."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Protocol

from starlette.types import Message, Receive, Scope, Send

from loradock_server.gateway.errors import ClientGone, ClientTooSlow, TooLarge

DIRECT = "loradock.direct"
"""Where a scope has its `Direct`, if it has one."""

# How much of a refused body we still read.
_DRAIN_BYTES = 4 << 20
_DRAIN_SECONDS = 1.0
# Whoever hangs up so soon is noticed then.
_UNWATCHED_SECONDS = 0.01


class Direct(Protocol):
    """The client's connection as far as it tells more, and tells it more cheaply, than ASGI's messages do.

    `when_gone` is called when the client hangs up.
    """

    when_gone: Callable[[], None] | None

    @property
    def is_gone(self) -> bool: ...

    def whole_body(self) -> bytes | None:
        """The request's body, if all of it is here already; then nobody is to `receive` it, or has begun to."""


def headers_of(scope: Scope) -> dict[str, str]:
    """The request's headers by lower-case name; the last one wins."""
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


class Body:
    """A request's body as it arrives, read once; `drain` is for one that is refused before its end.

    `pause_seconds` is how long the client may leave us waiting for its next part; None leaves that to the reader.
    """

    def __init__(self, receive: Receive, pause_seconds: float | None) -> None:
        self._receive = receive
        self._pause_seconds = pause_seconds
        self._ended = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """The chunks. Raises ClientGone when the client leaves halfway, ClientTooSlow when it pauses too long."""
        while not self._ended:
            message = await self._next()
            if message["type"] == "http.disconnect":
                self._ended = True
                raise ClientGone
            self._ended = not message.get("more_body", False)
            yield message.get("body", b"")

    async def _next(self) -> Message:
        if self._pause_seconds is None:
            return await self._receive()
        try:
            async with asyncio.timeout(self._pause_seconds):
                return await self._receive()
        except TimeoutError:
            self._ended = True
            raise _too_slow(self._pause_seconds) from None

    async def drain(self) -> None:
        """Read away a bounded rest, so that the client reads our answer instead of a reset connection."""
        seen = 0
        with contextlib.suppress(TimeoutError, ClientGone, ClientTooSlow):
            async with asyncio.timeout(_DRAIN_SECONDS):
                async for chunk in self:
                    seen += len(chunk)
                    if seen > _DRAIN_BYTES:
                        return


async def read_body(
    headers: Mapping[str, str], receive: Receive, limit: int, seconds: float, direct: Direct | None = None
) -> bytes:
    """The whole body. Raises TooLarge over `limit` bytes, ClientTooSlow when it takes longer than that, and ClientGone
    when the client leaves halfway.
    """
    if direct is not None and (whole := direct.whole_body()) is not None:
        if len(whole) > limit:
            raise _too_large(len(whole), limit)
        return whole
    body = Body(receive, None)
    announced = headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit:
        await body.drain()
        raise _too_large(announced, limit)
    parts: list[bytes] = []
    size = 0
    try:
        with Deadline(seconds):
            async for part in body:
                size += len(part)
                if size > limit:
                    break
                parts.append(part)
    except TimeoutError:
        raise _too_slow(seconds) from None
    if size > limit:
        await body.drain()
        raise _too_large(f"more than {limit}", limit)
    return b"".join(parts)


def _too_slow(seconds: float) -> ClientTooSlow:
    return ClientTooSlow(
        f"the request body did not arrive within {seconds:g} s (LORADOCK_CLIENT_TIMEOUT); send it again in one go"
    )


def _too_large(value: object, limit: int) -> TooLarge:
    return TooLarge(f"the request body has {value} bytes; this server allows {limit} (LORADOCK_MAX_BODY_BYTES)")


async def send_answer(send: Send, status: int, headers: Iterable[tuple[str, str]], body: bytes) -> None:
    """A complete response in one go."""
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    raw.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


class Deadline:
    """`asyncio.timeout` for every request: that one costs several times as much. Raises TimeoutError."""

    __slots__ = ("_is_over", "_seconds", "_task", "_timer")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._is_over = False

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._end)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._timer.cancel()
        if self._is_over and self._task.uncancel() == 0 and kind is asyncio.CancelledError:
            raise TimeoutError from None

    def _end(self) -> None:
        self._is_over = True
        self._task.cancel()


class DisconnectWatch:
    """A block that is cancelled when the client hangs up, and then raises ClientGone instead.

    The request body must have been read before. Set `finished` right before the last byte is sent: what looks like a
    disconnect after it is none. A cancellation from anywhere else passes through unchanged.
    """

    __slots__ = ("_direct", "_gone", "_receive", "_task", "_timer", "_waiter", "finished")

    def __init__(self, receive: Receive, direct: Direct | None = None) -> None:
        self._receive = receive
        self._direct = direct
        self._gone = False
        self._timer: asyncio.TimerHandle | None = None
        self._waiter: asyncio.Task[None] | None = None
        self.finished = False

    def __enter__(self) -> DisconnectWatch:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        if self._direct is None:
            # A task of its own for every request would cost more than it saves where the answer is there at once.
            self._timer = asyncio.get_running_loop().call_later(_UNWATCHED_SECONDS, self._begin)
        elif self._direct.is_gone:
            raise ClientGone
        else:
            self._direct.when_gone = self._end
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if self._direct is not None:
            self._direct.when_gone = None
        if self._timer is not None:
            self._timer.cancel()
        if self._waiter is not None:
            self._waiter.cancel()
        if self._gone and kind is asyncio.CancelledError and self._task.uncancel() == 0:
            raise ClientGone from None

    def _begin(self) -> None:
        self._waiter = asyncio.create_task(self._wait())

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._end()

    def _end(self) -> None:
        if not self.finished:
            self._gone = True
            self._task.cancel()
