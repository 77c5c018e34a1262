"""The line to the engine: HTTP over a unix socket or TCP, with the internal token on every call.

Turns what goes wrong on that line into EngineUnavailable and EngineTimeout. It knows paths and bytes, not
what they mean.
"""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from types import SimpleNamespace
from typing import Any

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError

from loradock_server import wire
from loradock_server.gateway.engine_answer import EngineAnswer, Stage, Timeouts
from loradock_server.gateway.errors import (
    EngineGarbled,
    EngineRefused,
    EngineTimeout,
    EngineUnavailable,
    ShuttingDown,
)

STATE_SECONDS = 2.0
METRICS_SECONDS = 1.0
UNLOAD_SECONDS = 30.0
PINS_SECONDS = 5.0
PROBE_SECONDS = 60.0  # loads the adapter and waits for its turn like a request
USAGE_SILENCE_SECONDS = 15.0  # three missed keep-alives of the feed

_STATEMENT_BYTES = 64 << 20
# Shorter than the engine's own (vLLM: 5 s), so that mostly we are the side that closes an idle connection.
_KEEP_ALIVE_SECONDS = 3.0
_READ_BUFFER_BYTES = 1 << 18
# aiohttp writes small bodies in one piece and warns about large ones, which it takes as a file.
_ONE_PIECE_BYTES = 1 << 19
# A connection that the engine closed while it lay idle fails at once; later failures are the request's own.
_STALE_SECONDS = 0.1


class EngineClient:
    """Calls to one engine (or to the router in front of many). Open it with `async with`.

    `on_failure` are told, in words, why an inference request failed on the line, and whether nobody was there to answer
    it (`gone`); else an answer broke off in its middle, which may be that one request's fault.
    """

    def __init__(self, address: str, token: str, gateway_id: str, *, timeouts: Timeouts) -> None:
        self.address = address
        self._path, self._base = _parse(address)
        self._headers = {wire.TOKEN: token, wire.GATEWAY: gateway_id}
        self._gateway_id = gateway_id
        self._timeouts = timeouts
        self._session: aiohttp.ClientSession | None = None
        self._answering: set[asyncio.Task[Any]] = set()
        self._is_cut = False
        self.on_failure: list[Callable[[str, bool], None]] = []

    async def __aenter__(self) -> EngineClient:
        connector: aiohttp.BaseConnector
        if self._path is not None:
            connector = aiohttp.UnixConnector(self._path, limit=0, keepalive_timeout=_KEEP_ALIVE_SECONDS)
        else:
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_SECONDS)
        traces = aiohttp.TraceConfig()
        traces.on_connection_reuseconn.append(_note_reuse)
        self._session = aiohttp.ClientSession(
            connector=connector,
            headers=self._headers,
            skip_auto_headers=("accept-encoding", "user-agent"),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            read_bufsize=_READ_BUFFER_BYTES,
            timeout=aiohttp.ClientTimeout(total=self._timeouts.total, sock_connect=self._timeouts.connect),
            trace_configs=[traces],
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    def cut(self) -> None:
        """End every inference request, now and from now on, with ShuttingDown. The usage feed goes on."""
        # Closing the session would not do: aiohttp then leaves whoever reads a body waiting for ever.
        self._is_cut = True
        for task in self._answering:
            task.cancel()

    @asynccontextmanager
    async def post(
        self, path: str, body: bytes, headers: Mapping[str, str], *, stream: bool
    ) -> AsyncIterator[EngineAnswer]:
        """An inference request; leaving the block early aborts it in the engine.

        Errors inside the block that come from the line are translated like those of the request itself. Only a `stream`
        must begin within the timeout for that: any other answer begins when it is finished.
        """
        line = _Translated(self._timeouts)
        with line, self._cuttable(), self._reported():
            response = await self._send(path, body, headers, self._timeouts.first_byte if stream else None)
            line.answer = answer = EngineAnswer(response, self._timeouts)
            try:
                yield answer
            finally:
                answer.close()
                response.close()  # no effect once the whole answer was read

    async def _send(
        self, path: str, body: bytes, headers: Mapping[str, str], first_byte: float | None
    ) -> aiohttp.ClientResponse:
        session = self._require_session()
        timeout = aiohttp.ClientTimeout(
            total=self._timeouts.total, sock_connect=self._timeouts.connect, sock_read=first_byte
        )

        async def attempt(trace: SimpleNamespace) -> aiohttp.ClientResponse:
            return await session.post(
                self._base + path,
                data=_payload(body),
                headers=headers,
                timeout=timeout,
                allow_redirects=False,
                trace_request_ctx=trace,
            )

        first = SimpleNamespace(reused=False)
        started = time.monotonic()
        try:
            return await attempt(first)
        except aiohttp.ClientConnectorError:
            pass  # no byte was sent
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            # Once more only if this was a pooled connection that the engine had closed before it read anything.
            if not first.reused or time.monotonic() - started > _STALE_SECONDS:
                raise
        return await attempt(SimpleNamespace(reused=False))

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
        with _Translated(self._timeouts, PROBE_SECONDS):
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
        with _Translated(self._timeouts, METRICS_SECONDS):
            async with self._require_session().get(
                self._base + wire.METRICS, timeout=aiohttp.ClientTimeout(total=METRICS_SECONDS)
            ) as response:
                response.raise_for_status()
                return await _whole(response)

    @asynccontextmanager
    async def usage(self, after: int) -> AsyncIterator[tuple[str | None, AsyncIterator[bytes]]]:
        """The feed of usage records from sequence number `after` on: the engine process's id, and JSON lines."""
        timeout = aiohttp.ClientTimeout(sock_connect=self._timeouts.connect, sock_read=USAGE_SILENCE_SECONDS)
        with _Translated(self._timeouts):
            response = await self._require_session().get(
                self._base + wire.USAGE,
                params={"gateway": self._gateway_id, "after": str(after)},
                timeout=timeout,
            )
            try:
                response.raise_for_status()
                yield response.headers.get(wire.GENERATION), aiter(response.content)
            finally:
                response.close()

    async def _json(self, method: str, path: str, seconds: float, body: Any = None) -> Any:
        with _Translated(self._timeouts, seconds):
            async with self._require_session().request(
                method, self._base + path, json=body, timeout=aiohttp.ClientTimeout(total=seconds)
            ) as response:
                response.raise_for_status()
                return json.loads(await _whole(response))

    @contextmanager
    def _cuttable(self) -> Iterator[None]:
        if self._is_cut:
            raise ShuttingDown("this server is shutting down; send the request again")
        task = asyncio.current_task()
        assert task is not None
        self._answering.add(task)
        try:
            yield
        except asyncio.CancelledError:
            if self._is_cut and task.uncancel() == 0:
                raise ShuttingDown(
                    "this server is shutting down and could not finish; send the request again"
                ) from None
            raise
        finally:
            self._answering.discard(task)

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError) as error:
            for told in self.on_failure:
                gone = isinstance(error, aiohttp.ClientConnectionError) and not _is_slow(error)
                told(_in_words(error), gone)
            raise

    def _require_session(self) -> aiohttp.ClientSession:
        if self._session is None or self._session.closed:
            raise EngineUnavailable("the gateway's line to the engine is closed")
        return self._session


class _Translated:
    """Turns aiohttp's exceptions into ours. `total` is for what the engine says of itself: then JSON's too."""

    def __init__(self, timeouts: Timeouts, total: float | None = None) -> None:
        self._timeouts = timeouts
        self._total = total
        self.answer: EngineAnswer | None = None

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, aiohttp.ConnectionTimeoutError):
            raise EngineUnavailable(
                f"the engine took no connection within {self._timeouts.connect:g} s (LORADOCK_CONNECT_TIMEOUT); "
                "try again shortly"
            ) from error
        if isinstance(error, TimeoutError):
            raise EngineTimeout(self._late(error)) from error
        if isinstance(error, aiohttp.ClientResponseError) and error.status == 401:
            raise EngineUnavailable("the engine refused this gateway's token (LORADOCK_ENGINE_TOKEN)") from error
        if isinstance(error, (aiohttp.ClientResponseError, HttpProcessingError)) or (
            self._total is not None and isinstance(error, (ValueError, RecursionError))  # no JSON
        ):
            raise EngineGarbled(
                f"what answers at the engine's address cannot be understood ({type(error).__name__}); "
                "is it a LoRADock engine?"
            ) from error
        if isinstance(error, aiohttp.ClientError):
            raise EngineUnavailable(_in_words(error)) from error

    def _late(self, error: TimeoutError) -> str:
        times = self._timeouts
        if self._total is not None:
            return f"the engine did not answer within {self._total:g} s"
        if not _is_slow(error):
            return (
                f"the engine did not finish in time: {times.total:g} s for a request (LORADOCK_REQUEST_TIMEOUT); "
                "ask for fewer tokens"
            )
        if self.answer is not None and self.answer.stage is Stage.CHUNK:
            return (
                f"the engine stopped within the stream: nothing for {times.chunk:g} s (LORADOCK_CHUNK_TIMEOUT); "
                "send the request again"
            )
        return (
            f"the engine did not begin in time: no first event for {times.first_byte:g} s "
            "(LORADOCK_FIRST_BYTE_TIMEOUT); it has much to do, or the prompt is long: try again later"
        )


def _is_slow(error: BaseException) -> bool:
    """Whether it is the pause before the next byte that was too long."""
    return isinstance(error, aiohttp.SocketTimeoutError)


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


async def _note_reuse(session: aiohttp.ClientSession, context: SimpleNamespace, params: object) -> None:
    if context.trace_request_ctx is not None:
        context.trace_request_ctx.reused = True


def _payload(body: bytes) -> bytes | io.BytesIO:
    return body if len(body) < _ONE_PIECE_BYTES else io.BytesIO(body)


def _parse(address: str) -> tuple[str | None, str]:
    """Socket path and URL base of `unix:/path`, `http://host:port` or `https://host:port`."""
    if address.startswith("unix:"):
        return address.removeprefix("unix:"), "http://engine"
    if address.startswith(("http://", "https://")):
        return None, address.rstrip("/")
    raise ValueError(f"engine address {address!r} is not unix:/path or http://host:port (LORADOCK_ENGINE_URL)")
