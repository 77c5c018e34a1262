"""The outermost layer of the engine's HTTP: nobody without the token, nobody out of turn, no adapter not in memory.

A plain ASGI class around vLLM's own application. It decides who may enter, lets each wait for its turn and has loaded
what must be loaded first, and it reports what each request cost; what vLLM answers passes through untouched.
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Awaitable, Callable, Container, MutableMapping
from contextlib import AsyncExitStack
from typing import Any, Protocol

from loradock_adapters.errors import AdapterError
from loradock_adapters.names import AdapterRef
from loradock_server import wire
from loradock_server.drain import Drain

from .admission import WEIGHTS, Admission, AdmissionError
from .context import RequestContext, current_request
from .internal import Internal
from .listener import Listener
from .replies import Receive, Scope, Send, reply_error, reply_json
from .residency import Residency, ResidencyError
from .signatures import Signatures
from .usage import UsageFeed

log = logging.getLogger(__name__)

_ANSWERED = frozenset({*wire.COMPUTING, *wire.READING, "/v1/models"})
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]


class Health(Protocol):
    """What the guard must know about the engine behind it."""

    @property
    def errored(self) -> bool:
        """The engine has died under us and cannot answer any more."""


class Guard:
    """Stands in front of every route; see the module's docstring. Once `drain` has begun, new work is turned away."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        token: str,
        admission: Admission,
        residency: Residency,
        feed: UsageFeed,
        internal: Internal,
        health: Health,
        signatures: Signatures,
        answered: Callable[[str | None, float | None], None],
        routes: Container[str],
        serves: str,
    ) -> None:
        self._app = app
        self._token = token.encode()
        self._admission = admission
        self._residency = residency
        self._feed = feed
        self._internal = internal
        self._health = health
        self._signatures = signatures
        self._answered = answered  # adapter id, seconds in the queue
        self._routes = routes  # of those in wire.COMPUTING and wire.READING, what vLLM has for this model
        self._serves = serves  # the model, in words
        self.drain = Drain()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
        elif scope["path"] == wire.LIVE:
            await reply_json(send, 200, {"status": "alive"})
        elif not hmac.compare_digest(header(scope, wire.TOKEN).encode(), self._token):
            await reply_error(send, 401, "the engine answers only its gateway", code="engine_token_required")
        elif scope["path"].startswith("/internal/"):
            await self._internal(scope, receive, send)
        elif scope["path"] not in _ANSWERED:
            await reply_error(send, 404, f"no route {scope['path']}", code="route_not_found")
        elif scope["path"] not in self._routes:
            await reply_error(
                send,
                400,
                f"{self._serves} and cannot do {scope['path']}",
                code="operation_not_supported",
                param="model",
            )
        elif self.drain.draining or self._health.errored:
            await reply_error(send, 503, "the engine is going down; retry", code="engine_unavailable", retry_after=1)
        else:
            await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        adapter, digest = header(scope, wire.ADAPTER) or None, header(scope, wire.DIGEST) or None
        if fault := fault_of(adapter, digest):
            await reply_error(send, 400, fault, code="bad_adapter_header")
            return
        if digest is not None:
            self._signatures.note(digest, header(scope, wire.SIGNATURE))
        priority = header(scope, wire.PRIORITY) or "normal"
        if priority not in WEIGHTS:
            await reply_error(send, 400, f"{wire.PRIORITY} is one of {', '.join(WEIGHTS)}", code="bad_priority_header")
            return
        context = RequestContext(
            header(scope, wire.REQUEST_ID),
            header(scope, wire.GATEWAY),
            adapter,
            digest,
            key=header(scope, wire.KEY),
            tenant=header(scope, wire.TENANT),
        )
        computes = scope["method"] == "POST" and scope["path"] in wire.COMPUTING
        try:
            heard = Listener(receive)
            async with AsyncExitStack() as held:
                held.enter_context(self.drain.answering())
                try:
                    if computes and not await self._take_seat(context, priority, heard, held):
                        return
                    if adapter is not None and digest is not None:
                        context.residency = await held.enter_async_context(self._residency.lease(adapter, digest))
                except AdmissionError as error:
                    context.status = error.status
                    await reply_error(send, error.status, str(error), code=error.code, retry_after=error.retry_after)
                    return
                except ResidencyError as error:
                    context.status, retry = error.status, 1 if error.status == 503 else None
                    await reply_error(send, error.status, str(error), code=error.code, retry_after=retry)
                    return
                token = current_request.set(context)
                try:
                    await self._app(scope, heard, _Relay(send, self._health, context))
                finally:
                    current_request.reset(token)
                    # Before the lease ends: an adapter must not leave while the engine still computes with it.
                    await context.end()
        finally:
            if computes:
                record = context.record()
                self._answered(adapter, record["queue_seconds"])
                await self._feed.publish(context.gateway, record)

    async def _take_seat(self, context: RequestContext, priority: str, heard: Listener, held: AsyncExitStack) -> bool:
        """Wait for the request's turn; its seat is given back with `held`. False when the client left meanwhile.

        Comes before the lease: so no more adapters are held in memory than run, and there is always room for those.
        Raises AdmissionError.
        """
        ticket = held.enter_context(self._admission.line_up(context.adapter, context.reading, WEIGHTS[priority]))
        context.waited = lambda: ticket.waited_seconds
        if ticket.admitted:
            return True
        if context.adapter is not None and context.digest is not None:
            self._residency.prefetch(context.adapter, context.digest)
        return await heard.stays_for(ticket.turn())


class _Relay:
    """Passes vLLM's messages on until the engine dies: then a clean 503, or silence that breaks the stream.

    The gateway turns a broken stream into the error event that clients understand, so that is done in one place.
    """

    def __init__(self, send: Send, health: Health, context: RequestContext) -> None:
        self._send = send
        self._health = health
        self._context = context
        self._start: MutableMapping[str, Any] | None = None
        self._started = False
        self._over = False

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        if self._over:
            return
        if self._health.errored:
            self._over = True
            if not self._started:
                self._context.status = 503
                await reply_error(
                    self._send,
                    503,
                    "the engine stopped before answering; retry",
                    code="engine_unavailable",
                    retry_after=5,
                )
            return
        if message["type"] == "http.response.start":
            # Held back until the first byte of the answer: until then the status can still become a 503.
            if residency := self._context.residency:
                message["headers"] = [*message.get("headers", []), (wire.RESIDENCY.encode(), residency.encode())]
            self._start = message
            return
        if self._start is not None:
            start, self._start = self._start, None
            self._started = True
            self._context.status = start["status"]
            await self._send(start)
        await self._send(message)


def fault_of(adapter: str | None, digest: str | None) -> str | None:
    """What is wrong with the pair of headers that names an adapter, None when it is sound."""
    if (adapter is None) != (digest is None):
        return f"{wire.ADAPTER} and {wire.DIGEST} come together or not at all"
    try:
        if adapter is not None:
            AdapterRef.parse(adapter)
    except AdapterError as error:
        return f"{wire.ADAPTER}: {error}"
    return None


def header(scope: Scope, name: str) -> str:
    """The value of a request header, "" when it is absent."""
    wanted = name.encode()
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == wanted), "")
