"""The inference routes: from the client's request to the engine's bytes, as plain ASGI.

The body is parsed once; only `model` and `cache_salt` are changed, and what the adapter's settings say. Everything else
passes through both ways. An answer's status goes out only after its first event is here, so that errors
keep theirs.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
import time
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from starlette.types import Receive, Scope, Send

from loradock_server import wire
from loradock_server.gateway import fast_json
from loradock_server.gateway.asgi import (
    DIRECT,
    Direct,
    DisconnectWatch,
    read_body,
    send_answer,
)
from loradock_server.gateway.bounds import require_bounded
from loradock_server.gateway.caller import ANONYMOUS, Caller
from loradock_server.gateway.defaults import apply_settings
from loradock_server.gateway.engine_answer import EngineAnswer
from loradock_server.gateway.engine_client import refusal
from loradock_server.gateway.engine_words import CONTEXT_FIELD
from loradock_server.gateway.errors import (
    CLIENT_GONE_STATUS,
    BadRequest,
    ClientGone,
    EngineRefused,
    EngineUnavailable,
    ErrorAnswer,
    explain,
)
from loradock_server.gateway.exchange import Exchange
from loradock_server.gateway.json_body import require_json
from loradock_server.gateway.observe import CALL, Call
from loradock_server.gateway.request_body import parse_request
from loradock_server.gateway.routes import Operation
from loradock_server.gateway.services import Services
from loradock_server.gateway.sse import ERROR_EVENT, StreamScan, leading_error
from loradock_server.gateway.unsupported import refuse_unsupported
from loradock_server.telemetry import attributes as names
from loradock_server.telemetry import tracing

_log = logging.getLogger(__name__)


class InferenceRoute:
    """One inference route, for every model this gateway serves."""

    def __init__(self, operation: Operation, services: Services) -> None:
        self.operation = operation
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call: Call = scope[CALL]
        direct: Direct | None = scope.get(DIRECT)
        exchange = Exchange(call.request_id, self.operation, call.span)
        answer = Answer(exchange, send)
        try:
            body = await self._admit(call, exchange, receive, direct)
            with DisconnectWatch(receive, direct) as watch:
                await self._forward(exchange, body, answer, watch)
        except ClientGone as error:
            exchange.code, exchange.error = CLIENT_GONE_STATUS, error
        except asyncio.CancelledError as error:
            exchange.code, exchange.error = CLIENT_GONE_STATUS, error
            raise
        except Exception as error:  # noqa: BLE001  the request's boundary: every client gets a proper answer
            exchange.error = error
            if explain(error).status == 500:
                _log.exception("request %s failed", call.request_id, extra={"request_id": call.request_id})
            self._services.limiter.tell(exchange)
            await answer.fail(error)
        finally:
            self._services.limiter.finish(exchange)
            self._services.ledger.finish(exchange)

    async def _admit(self, call: Call, exchange: Exchange, receive: Receive, direct: Direct | None) -> dict[str, Any]:
        """Who asks, what for, and who will answer."""
        caller = await self._services.auth.inference(call.headers)
        exchange.caller, exchange.tenant = caller.id, caller.tenant or ""
        exchange.holder = caller
        require_json(call.headers.get("content-type"))
        settings = self._services.settings
        raw = await read_body(call.headers, receive, settings.max_body_bytes, settings.client_timeout, direct)
        body = parse_request(raw)
        model = body.get("model")
        if not isinstance(model, str) or not model:
            raise BadRequest(
                "the body needs `model`, a string; GET /v1/models lists what this server has", param="model"
            )
        exchange.asked = model
        exchange.stream = body.get("stream") is True
        choices = body.get("n")
        exchange.choices = choices if isinstance(choices, int) else 1
        sticky = _sticky_key(caller, self._end_user(body))
        exchange.target = self._services.table.resolve(model, sticky, caller.names)
        refuse_unsupported(self.operation.name, body)
        require_bounded(self.operation.name, body, len(raw))
        apply_settings(exchange.target.settings, self.operation.name, body)
        state = self._services.watch.state
        if state.wrong_base:
            raise EngineUnavailable(str(state.problem))
        if self.operation.takes_salt:
            body["cache_salt"] = _salt(caller, body.get("cache_salt"))
        self._services.limiter.admit(exchange, body, len(raw))
        return body

    def _end_user(self, body: Mapping[str, Any]) -> Any:
        """Whoever the client asks for, where it says so."""
        if self.operation.dialect != "anthropic":
            return body.get("user")
        metadata = body.get("metadata")
        return metadata.get("user_id") if isinstance(metadata, dict) else None

    async def _forward(self, exchange: Exchange, body: dict[str, Any], answer: Answer, watch: DisconnectWatch) -> None:
        target = exchange.target
        assert target is not None
        exchange.open_span(
            self._services.tracer, self._services.table.base_name, body, content=self._services.settings.record_content
        )
        self._services.ledger.begin(exchange)
        headers = {
            wire.REQUEST_ID: exchange.request_id,
            wire.KEY: wire.encoded(exchange.caller),
            wire.TENANT: wire.encoded(exchange.tenant),
        }
        computes = self.operation.computes
        if computes and target.ref is not None and target.digest is not None:
            headers[wire.ADAPTER] = target.model
            headers[wire.DIGEST] = target.digest
            headers[wire.PRIORITY] = target.settings.priority
            if target.signature is not None:
                headers[wire.SIGNATURE] = target.signature
        tracing.inject(headers, exchange.span)
        body["model"] = target.model if computes else self._services.table.base_name
        exchange.sent = computes
        try:
            async with self._services.engine.post(
                self.operation.engine_path, fast_json.encode(body), headers, stream=exchange.stream
            ) as upstream:
                exchange.residency = upstream.headers.get(wire.RESIDENCY)
                if exchange.residency:
                    exchange.server_span.set_attribute(names.ADAPTER_RESIDENCY, exchange.residency)
                await answer.relay(upstream, watch)
        except EngineUnavailable:
            exchange.sent = False  # a dead engine reports no usage
            raise


class Answer:
    """What goes out to the client: either a whole answer, or a stream that ends well whatever happens."""

    def __init__(self, exchange: Exchange, send: Send) -> None:
        self._exchange = exchange
        self._send = send
        self._scan: StreamScan | None = None  # of the stream, once its head is out

    async def relay(self, upstream: EngineAnswer, watch: DisconnectWatch) -> None:
        """Pass the engine's answer on. Raises EngineRefused for an error that the client was not told yet."""
        if upstream.status >= 400:
            raise refusal(upstream.status, await upstream.whole(), upstream.headers.get("retry-after"))
        content_type = upstream.content_type()
        if upstream.is_stream:
            await self._relay_stream(upstream, content_type, watch)
            return
        body = await upstream.whole_object()
        self._exchange.code = upstream.status
        watch.finished = True
        await send_answer(self._send, upstream.status, (("content-type", content_type), *self._headers()), body)

    async def _relay_stream(self, upstream: EngineAnswer, content_type: str, watch: DisconnectWatch) -> None:
        chunk = await upstream.first_event()
        error = leading_error(chunk)
        if error is not None:
            raise _refused(error)
        headers = (
            ("content-type", content_type),
            ("cache-control", "no-cache"),
            ("x-accel-buffering", "no"),
            *self._headers(),
        )
        raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
        self._exchange.code = upstream.status
        await self._send({"type": "http.response.start", "status": upstream.status, "headers": raw})
        self._scan = scan = StreamScan(self._exchange.operation.ends)
        while chunk:
            if ERROR_EVENT in chunk:
                chunk = self._in_our_words(chunk)
            self._note(scan, chunk)
            await self._send({"type": "http.response.body", "body": chunk, "more_body": True})
            chunk = await upstream.more()
        if not scan.is_done:
            raise EngineUnavailable("the engine's stream broke off before its end")
        watch.finished = True
        await self._send({"type": "http.response.body", "body": b""})

    def _in_our_words(self, chunk: bytes) -> bytes:
        """The same with errors that vLLM found in the middle of its answer as we word all others."""
        events = chunk.split(b"\n\n")
        for i, event in enumerate(events):
            # One that is cut in two reaches the client as vLLM has it, which the SDKs raise likewise.
            if event.startswith(ERROR_EVENT) and (error := leading_error(event)) is not None:
                refused = _refused(error)
                self._exchange.error = refused
                events[i] = b"data: " + self._worded(refused).body
        return b"\n\n".join(events)

    def _worded(self, error: Exception) -> ErrorAnswer:
        operation = self._exchange.operation
        if isinstance(error, EngineRefused) and error.param == CONTEXT_FIELD:
            error.param = operation.prompt
        return explain(error).in_dialect(operation.dialect)

    def _note(self, scan: StreamScan, chunk: bytes) -> None:
        now = time.perf_counter()
        scan.feed(chunk)
        if scan.has_content:
            if self._exchange.first_content is None:
                self._exchange.first_content = now
            self._exchange.last_chunk = now

    def _headers(self) -> list[tuple[str, str]]:
        target = self._exchange.target
        limits = [*self._exchange.limit_headers]
        if target is None or target.ref is None or target.digest is None:
            return limits
        return [*limits, (wire.ADAPTER, target.model), (wire.DIGEST, target.digest)]

    async def fail(self, error: Exception) -> None:
        """Tell the client: by status as long as there is none, else by a last event and the stream's regular end."""
        answer = self._worded(error)
        if self._scan is None:
            self._exchange.code = answer.status
            await send_answer(self._send, answer.status, (*answer.headers, *self._headers()), answer.body)
            return
        gap = b"" if self._scan.between_events else b"\n\n"
        await self._send({"type": "http.response.body", "body": gap + answer.sse})


def _refused(error: Mapping[str, Any]) -> EngineRefused:
    """Of an error that came as an event, and so without a status of its own."""
    status = error.get("code")
    return EngineRefused(status if isinstance(status, int) and 400 <= status < 600 else 500, error)


def _sticky_key(caller: Caller, user: Any) -> str:
    """Whose requests go to one version of a split: the end user's, else the API key's, else just this one."""
    if isinstance(user, str) and user:
        return f"user\0{user}"
    return secrets.token_hex(8) if caller is ANONYMOUS else f"key\0{caller.id}"


def _salt(caller: Caller, own: Any) -> str:
    """Keeps the prefix caches of two tenants apart; a client's own salt divides its part further."""
    if isinstance(own, str) and own:
        return _hashed(caller.share, own)
    return _tenants_salt(caller.share)


@lru_cache(maxsize=4096)
def _tenants_salt(share: str) -> str:
    return _hashed(share, "")


def _hashed(share: str, part: str) -> str:
    return hashlib.sha256(f"{share}\0{part}".encode("utf-8", "surrogatepass")).hexdigest()
