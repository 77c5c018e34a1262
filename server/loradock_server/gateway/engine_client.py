"""The line to the engine: HTTP over a unix socket or TCP, with the internal token on every call.

Inference goes over `engine_line`, everything else over aiohttp. Turns what goes wrong on either into EngineUnavailable,
EngineTimeout and EngineGarbled. It knows paths and bytes, not what they mean.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError

from loradock_server import wire
from loradock_server.gateway.engine_answer import EngineAnswer, Stage, Timeouts
from loradock_server.gateway.engine_line import (
    KEEP_ALIVE_SECONDS,
    BrokenOff,
    ConnectTooSlow,
    EngineLine,
    HungUp,
    LineError,
    NotConnected,
    NotHttp,
    PauseTooLong,
    Reply,
    TotalTooLong,
    parse_address,
)
from loradock_server.gateway.errors import (
    EngineGarbled,
    EngineRefused,
    EngineTimeout,
    EngineUnavailable,
    GatewayError,
    ShuttingDown,
)

STATE_SECONDS = 2.0
METRICS_SECONDS = 1.0
UNLOAD_SECONDS = 30.0
PINS_SECONDS = 5.0
PROBE_SECONDS = 60.0  # loads the adapter and waits for its turn like a request
USAGE_SILENCE_SECONDS = 15.0  # three missed keep-alives of the feed

_LINE_BYTES = 1 << 16

_STATEMENT_BYTES = 64 << 20


class EngineClient:
    """Calls to one engine (or to the router in front of many). Open it with `async with`.

    `on_failure` are told, in words, why an inference request failed on the line, and whether nobody was there to answer
    it (`gone`); else an answer broke off in its middle, which may be that one request's fault.
    """

    def __init__(self, address: str, token: str, gateway_id: str, *, timeouts: Timeouts) -> None:
        self.address = address
        self._path, self._base = parse_address(address)
        self._headers = {wire.TOKEN: token, wire.GATEWAY: gateway_id}
        self._gateway_id = gateway_id
        self.timeouts = timeouts
        self.line = EngineLine(
            address,
            {**self._headers, "content-type": "application/json"},
            connect=timeouts.connect,
            total=timeouts.total,
        )
        self._session: aiohttp.ClientSession | None = None
        self._answering: set[asyncio.Task[Any]] = set()
        self.is_cut = False
        self.on_failure: list[Callable[[str, bool], None]] = []

    async def __aenter__(self) -> EngineClient:
        connector: aiohttp.BaseConnector
        if self._path is not None:
            connector = aiohttp.UnixConnector(self._path, limit=0, keepalive_timeout=KEEP_ALIVE_SECONDS)
        else:
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_SECONDS)
        self._session = aiohttp.ClientSession(
            connector=connector,
            headers=self._headers,
            skip_auto_headers=("accept-encoding", "user-agent"),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=self.timeouts.total, sock_connect=self.timeouts.connect),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self.line.close()
        if self._session is not None:
            await self._session.close()

    def cut(self) -> None:
        """End every inference request, now and from now on, with ShuttingDown. The usage feed goes on."""
        # Closing the session would not do: aiohttp then leaves whoever reads a body waiting for ever.
        self.is_cut = True
        for task in self._answering:
            task.cancel()

    def post(self, path: str, body: bytes, headers: Mapping[str, str], *, stream: bool) -> Asked:
        """An inference request; leaving the block early aborts it in the engine.

        Errors inside the block that come from the line are translated like those of the request itself. Only a `stream`
        must begin within the timeout for that: any other answer begins when it is finished.
        """
        return Asked(self, path, body, headers, self.timeouts.first_byte if stream else None)

    def begin(self) -> asyncio.Task[Any]:
        """Note that the running task waits for the engine, so that `cut` ends it. Raises ShuttingDown after a cut."""
        if self.is_cut:
            raise ShuttingDown("this server is shutting down; send the request again")
        self._require_session()
        task = asyncio.current_task()
        assert task is not None
        self._answering.add(task)
        return task

    def end(self, task: asyncio.Task[Any]) -> None:
        """It waits no more."""
        self._answering.discard(task)

    def report(self, error: Exception) -> None:
        """Tell `on_failure` of it, if it is of their business."""
        if isinstance(error, (NotConnected, HungUp, BrokenOff, PauseTooLong)):
            for told in self.on_failure:
                told(_in_words(error), isinstance(error, (NotConnected, HungUp)))

    async def state(self) -> dict[str, Any]:
        """The engine's `/internal/state`. Raises EngineUnavailable, EngineTimeout."""
        value = await self._json("GET", wire.STATE, STATE_SECONDS)
        if not isinstance(value, dict):
            raise EngineUnavailable(f"the engine's state is {type(value).__name__}, not an object")
        return value

    async def unload(self, adapter_id: str) -> None:
        """Drain and remove an adapter from the engine's memory. Raises EngineUnavailable, EngineTimeout."""
        await self._json("POST", wire.UNLOAD, UNLOAD_SECONDS, {"id": adapter_id})

    async def pin(self, wanted: Mapping[str, str], signatures: Mapping[str, str]) -> None:
        """Have these adapters kept in memory, digests by id, and no others; `signatures` by id, if they have one.

        Raises EngineUnavailable, EngineTimeout.
        """
        pins = [
            {"id": adapter_id, "digest": digest}
            | ({"signature": signatures[adapter_id]} if adapter_id in signatures else {})
            for adapter_id, digest in wanted.items()
        ]
        await self._json("POST", wire.PINS, PINS_SECONDS, {"pins": pins})

    async def probe(self, adapter_id: str, digest: str, signature: str | None) -> dict[str, Any]:
        """The engine's verdict on an adapter. Raises EngineUnavailable, EngineTimeout, and EngineRefused when it says
        why it gives none.
        """
        with _Translated(PROBE_SECONDS):
            async with self._require_session().post(
                self._base + wire.PROBE,
                json={"id": adapter_id, "digest": digest, "signature": signature},
                timeout=aiohttp.ClientTimeout(total=PROBE_SECONDS),
            ) as response:
                if response.status >= 400:
                    raise refusal(response.status, await _whole(response), response.headers.get("retry-after"))
                verdict = json.loads(await _whole(response))
        if not isinstance(verdict, dict):
            raise EngineUnavailable(f"the engine's verdict is {type(verdict).__name__}, not an object")
        return verdict

    async def metrics(self) -> bytes:
        """The engine's metrics page. Raises EngineUnavailable, EngineTimeout."""
        with _Translated(METRICS_SECONDS):
            async with self._require_session().get(
                self._base + wire.METRICS, timeout=aiohttp.ClientTimeout(total=METRICS_SECONDS)
            ) as response:
                response.raise_for_status()
                return await _whole(response)

    @asynccontextmanager
    async def usage(self, after: int) -> AsyncIterator[tuple[str | None, AsyncIterator[bytes]]]:
        """The feed of usage records from sequence number `after` on: the engine process's id, and JSON lines."""
        timeout = aiohttp.ClientTimeout(sock_connect=self.timeouts.connect, sock_read=USAGE_SILENCE_SECONDS)
        with _Translated():
            response = await self._require_session().get(
                self._base + wire.USAGE,
                params={"gateway": self._gateway_id, "after": str(after)},
                timeout=timeout,
            )
            try:
                response.raise_for_status()
                yield response.headers.get(wire.GENERATION), _lines(response.content)
            finally:
                response.close()

    async def _json(self, method: str, path: str, seconds: float, body: Any = None) -> Any:
        with _Translated(seconds):
            async with self._require_session().request(
                method, self._base + path, json=body, timeout=aiohttp.ClientTimeout(total=seconds)
            ) as response:
                response.raise_for_status()
                return json.loads(await _whole(response))

    def _require_session(self) -> aiohttp.ClientSession:
        if self._session is None or self._session.closed:
            raise EngineUnavailable("the gateway's line to the engine is closed")
        return self._session


class Asked:
    """One inference request, for `async with`; see `EngineClient.post`."""

    __slots__ = ("_answer", "_body", "_client", "_headers", "_path", "_pause", "_reply", "_task")

    def __init__(
        self, client: EngineClient, path: str, body: bytes, headers: Mapping[str, str], pause: float | None
    ) -> None:
        self._client = client
        self._path = path
        self._body = body
        self._headers = headers
        self._pause = pause
        self._reply: Reply | None = None
        self._answer: EngineAnswer | None = None

    async def __aenter__(self) -> EngineAnswer:
        client = self._client
        self._task = client.begin()
        try:
            self._reply = await client.line.post(self._path, self._body, self._headers, pause=self._pause)
        except BaseException as error:
            self._end(error)
            raise
        self._answer = EngineAnswer(self._reply, client.timeouts)
        return self._answer

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._reply is not None:
            self._reply.close()
        self._end(error)

    def _end(self, error: BaseException | None) -> None:
        """Raises what the error means to the client, if it is one of the line's."""
        client = self._client
        client.end(self._task)
        if error is None:
            return
        if isinstance(error, asyncio.CancelledError):
            if client.is_cut and self._task.uncancel() == 0:
                raise ShuttingDown(
                    "this server is shutting down and could not finish; send the request again"
                ) from None
        elif isinstance(error, (LineError, TotalTooLong, PauseTooLong)):
            client.report(error)
            raise translated(error, client.timeouts, self._answer) from error


class _Translated:
    """Turns aiohttp's exceptions into ours; `total` is how many seconds the call had, where it had a limit: then it was
    for a statement in JSON, and what is none is translated too.
    """

    def __init__(self, total: float | None = None) -> None:
        self._total = total

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, aiohttp.ConnectionTimeoutError):
            raise EngineUnavailable(_in_words(error)) from error
        if isinstance(error, TimeoutError):
            within = "in time" if self._total is None else f"within {self._total:g} s"
            raise EngineTimeout(f"the engine did not answer {within}") from error
        if isinstance(error, aiohttp.ClientResponseError) and error.status == 401:
            raise EngineUnavailable("the engine refused this gateway's token (LORADOCK_ENGINE_TOKEN)") from error
        if isinstance(error, (aiohttp.ClientResponseError, HttpProcessingError)) or (
            self._total is not None and isinstance(error, (ValueError, RecursionError))  # no JSON
        ):
            raise _garbled(error) from error
        if isinstance(error, aiohttp.ClientError):
            raise EngineUnavailable(_in_words(error)) from error


def translated(error: Exception, times: Timeouts, answer: EngineAnswer | None) -> GatewayError:
    """What the line's failure in an inference request means to the client."""
    if isinstance(error, ConnectTooSlow):
        return EngineUnavailable(
            f"the engine took no connection within {times.connect:g} s (LORADOCK_CONNECT_TIMEOUT); try again shortly"
        )
    if isinstance(error, NotHttp):
        return _garbled(error)
    if isinstance(error, LineError):
        return EngineUnavailable(_in_words(error))
    if not isinstance(error, PauseTooLong):
        return EngineTimeout(
            f"the engine did not finish in time: {times.total:g} s for a request (LORADOCK_REQUEST_TIMEOUT); "
            "ask for fewer tokens"
        )
    if answer is not None and answer.stage is Stage.CHUNK:
        return EngineTimeout(
            f"the engine stopped within the stream: nothing for {times.chunk:g} s (LORADOCK_CHUNK_TIMEOUT); "
            "send the request again"
        )
    return EngineTimeout(
        f"the engine did not begin in time: no first event for {times.first_byte:g} s "
        "(LORADOCK_FIRST_BYTE_TIMEOUT); it has much to do, or the prompt is long: try again later"
    )


def _garbled(error: Exception) -> EngineGarbled:
    return EngineGarbled(
        f"what answers at the engine's address cannot be understood ({type(error).__name__}); is it a LoRADock engine?"
    )


async def _whole(response: aiohttp.ClientResponse) -> bytes:
    """What the engine says of itself. Raises EngineGarbled when that has no end."""
    parts: list[bytes] = []
    size = 0
    while part := await response.content.readany():
        parts.append(part)
        size += len(part)
        if size > _STATEMENT_BYTES:
            raise EngineGarbled(f"the engine says more than {_STATEMENT_BYTES} bytes of itself")
    return b"".join(parts)


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """The lines of the usage feed, without their ends. Raises EngineGarbled for one without end."""
    rest = b""
    while data := await content.readany():
        *lines, rest = (rest + data).split(b"\n")
        if len(rest) > _LINE_BYTES:
            raise EngineGarbled(f"the engine's usage feed has a line of more than {_LINE_BYTES} bytes")
        for line in lines:
            yield line


def refusal(status: int, body: bytes, retry_after: str | None) -> EngineRefused | EngineUnavailable:
    """The exception for an error that the engine answered with."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    error = value.get("error", value) if isinstance(value, Mapping) else None
    if not isinstance(error, Mapping):
        error = {"message": f"the engine answered {status} without a reason"}
    elif "message" not in error and "detail" in error:
        error = {"message": f"the engine refused the request: {json.dumps(error['detail'])}"}
    if status == 401:
        return EngineUnavailable("the engine refused this gateway's token (LORADOCK_ENGINE_TOKEN)")
    if status > 599:
        return EngineGarbled(f"the engine answered with status {status}; is it a LoRADock engine?")
    usable = retry_after is not None and retry_after.isascii() and retry_after.isdecimal()
    return EngineRefused(status, error, retry_after if usable else None)


def _in_words(error: Exception) -> str:
    return f"the engine is not answering ({type(error).__name__}); try again shortly"
