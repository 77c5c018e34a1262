"""The outermost layer: a request id, the HTTP SERVER span and the count of what is still being answered.

Plain ASGI, so that a stream passes untouched. It decides nothing but one thing: a draining gateway takes no
new work.
"""

from __future__ import annotations

import logging
import random
import re
from dataclasses import dataclass

from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from loradock_server import wire
from loradock_server.drain import Drain
from loradock_server.gateway.asgi import headers_of, send_answer
from loradock_server.gateway.errors import ShuttingDown, explain
from loradock_server.gateway.routes import dialect_of
from loradock_server.telemetry import attributes as names
from loradock_server.telemetry import tracing

_log = logging.getLogger(__name__)

CALL = "loradock.call"
# Asked every few seconds by machines; a span each would only be noise.
_UNOBSERVED = frozenset({"/healthz", "/readyz", "/metrics"})
_CLIENT_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")


@dataclass(slots=True)
class Call:
    """What the layers below know of the request: our own unique id, its headers and its SERVER span.

    `shown_id` is the client's own x-request-id if it sent a usable one.
    """

    request_id: str
    shown_id: str
    headers: dict[str, str]
    span: Span


class Observe:
    """Wraps the application; or the one route that all requests are for, which is `route` then."""

    def __init__(self, app: ASGIApp, *, tracer: Tracer, drain: Drain, route: Route | None = None) -> None:
        self._app = app
        self._route = route
        self._tracer = tracer
        self._drain = drain
        self._random = random.Random()  # ids are to be unique, not secret, and the kernel takes longer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in _UNOBSERVED:
            await self._app(scope, receive, send)
            return
        headers = headers_of(scope)
        call = self._call(scope, headers)
        scope[CALL] = call
        shown_id = (b"x-request-id", call.shown_id.encode())
        status = 500
        started = False

        async def send_observed(message: Message) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                status, started = message["status"], True
                if status == 500:  # before the client has it, and may ask somebody to look it up
                    _log_500(scope, call)
                message["headers"] = [*message["headers"], shown_id]
            await send(message)

        welcome = self._drain.enter()
        try:
            if welcome:
                await self._app(scope, receive, send_observed)
            else:
                await _turn_away(scope, send_observed)
        except Exception as error:
            if started:
                raise  # nothing more can be said; the server closes the connection
            _log.exception("request %s failed", call.request_id)
            answer = explain(error)
            await send_answer(send_observed, answer.status, answer.headers, answer.body)
        finally:
            if welcome:
                self._drain.leave()
            if call.span.is_recording():
                _end(call.span, scope, self._route or scope.get("route"), status)

    def _call(self, scope: Scope, headers: dict[str, str]) -> Call:
        request_id = f"{self._random.getrandbits(128):032x}"
        asked_id = headers.get(wire.REQUEST_ID)
        span = self._tracer.start_span(
            f"{scope['method']} {scope['path']}" if scope["path"].startswith("/v1/") else scope["method"],
            context=tracing.extract(headers),
            kind=SpanKind.SERVER,
        )
        if span.is_recording():
            host, port = scope.get("server") or (None, None)
            about = {
                names.HTTP_METHOD: scope["method"],
                names.URL_PATH: scope["path"],
                names.URL_SCHEME: scope["scheme"],
                names.SERVER_ADDRESS: host,
                names.SERVER_PORT: port,
                names.CLIENT_ADDRESS: (scope.get("client") or (None,))[0],
                names.USER_AGENT: headers.get("user-agent"),
                names.REQUEST_ID: request_id,
            }
            span.set_attributes({key: value for key, value in about.items() if value is not None})
        shown_id = asked_id if asked_id and _CLIENT_ID.fullmatch(asked_id) else request_id
        return Call(request_id, shown_id, headers, span)


def _log_500(scope: Scope, call: Call) -> None:
    ids = {"request_id": call.request_id, "client_request_id": call.shown_id}
    _log.error("%s %s is answered 500", scope["method"], scope["path"], extra=ids)


async def _turn_away(scope: Scope, send: Send) -> None:
    answer = explain(ShuttingDown("this server is shutting down; send the request again"))
    answer = answer.in_dialect(dialect_of(scope["path"]))
    await send_answer(send, answer.status, (*answer.headers, ("connection", "close")), answer.body)


def _end(span: Span, scope: Scope, taken: object, status: int) -> None:
    route = getattr(taken, "path", None)
    if route is not None:
        span.update_name(f"{scope['method']} {route}")
        span.set_attribute(names.HTTP_ROUTE, route)
    span.set_attribute(names.HTTP_STATUS, status)
    if status >= 500:
        span.set_attribute(names.ERROR_TYPE, str(status))
        span.set_status(Status(StatusCode.ERROR))
    span.end()
