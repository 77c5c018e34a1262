"""The gateway as one ASGI application: builds every part once and runs what follows engine and registry.

Reads no file and opens no socket by itself; `server` does that.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from opentelemetry.trace import TracerProvider
from prometheus_client import CollectorRegistry
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route

from loradock_adapters.base_model import BaseModel
from loradock_adapters.errors import LoraDockError
from loradock_adapters.registry import Registry
from loradock_adapters.registry.usage import Position
from loradock_adapters.store import Store
from loradock_server import __version__, wire
from loradock_server.drain import Drain
from loradock_server.gateway import (
    admin_adapters,
    admin_aliases,
    admin_audit,
    admin_catalogue,
    admin_evaluations,
    admin_files,
    admin_gc,
    admin_keys,
    admin_operations,
    admin_settings,
    admin_usage,
    describe,
    health,
    lora_adapters,
    models,
    stored_responses,
)
from loradock_server.gateway.accounting import Ledger
from loradock_server.gateway.auth import Authenticator
from loradock_server.gateway.background import Background
from loradock_server.gateway.engine_answer import Timeouts
from loradock_server.gateway.engine_client import EngineClient
from loradock_server.gateway.errors import (
    BadRequest,
    ClientGone,
    ErrorAnswer,
    GatewayError,
    explain,
    http_error,
)
from loradock_server.gateway.jwks import FileKeys, SigningKeys, WebKeys
from loradock_server.gateway.key_uses import KeyUses
from loradock_server.gateway.limiting.limiter import Limiter
from loradock_server.gateway.limiting.redis_store import RedisLimits
from loradock_server.gateway.limiting.sharing import Sharing
from loradock_server.gateway.observe import CALL, Call, Observe
from loradock_server.gateway.operations import Operations
from loradock_server.gateway.pins import PinKeeper
from loradock_server.gateway.place import ALONE, Place
from loradock_server.gateway.probing import SmokeProbe
from loradock_server.gateway.proxy import InferenceRoute
from loradock_server.gateway.registration import Registrar
from loradock_server.gateway.routes import OPERATIONS
from loradock_server.gateway.services import Services
from loradock_server.gateway.siblings import Siblings
from loradock_server.gateway.table import RoutingTable
from loradock_server.gateway.tokens import Claims, TokenVerifier
from loradock_server.gateway.usage import Usage, UsageFollower
from loradock_server.gateway.usage_book import UsageBook
from loradock_server.gateway.watch import EngineWatch
from loradock_server.limits import adapter_limits
from loradock_server.settings import Settings
from loradock_server.telemetry import tracing
from loradock_server.telemetry.metrics import GatewayMetrics

_log = logging.getLogger(__name__)


def create_app(
    settings: Settings,
    registry: Registry,
    store: Store,
    base: BaseModel,
    engine_token: str,
    *,
    base_name: str | None = None,
    local_key: str | None = None,
    gateway_id: str | None = None,
    place: Place = ALONE,
    tracer_provider: TracerProvider | None = None,
) -> FastAPI:
    """The application. For whoever runs it: `state.services`, and `state.direct`, which are the same answers to POST by
    path, without a look at all the other routes.

    `base_name` is the base model's name for clients and `local_key` one more admin key. `gateway_id` is the name under
    which the engine keeps this gateway's usage records (`identity`); without one, a new one. `place` says which of
    several workers this is.
    Without a tracer provider one is made from the standard OTEL_* variables.
    """
    provider = tracer_provider or tracing.build_tracer_provider("loradock-gateway")
    services = _build(
        settings,
        registry,
        store,
        base,
        base_name or settings.served_model_name or base.name,
        engine_token,
        local_key,
        gateway_id or uuid.uuid4().hex,
        place,
        provider,
    )
    app = FastAPI(
        title="LoRADock",
        version=__version__,
        lifespan=_lifespan(services, place),
        openapi_url=None,
        redirect_slashes=False,
    )
    app.state.services = services
    # First, because routes are tried in order and these are the busy ones.
    busy = [Route(one.path, InferenceRoute(one, services), methods=["POST"]) for one in OPERATIONS]
    app.router.routes.extend(busy)
    for part in (
        models,
        stored_responses,
        lora_adapters,
        admin_catalogue,
        admin_adapters,
        admin_files,
        admin_aliases,
        admin_operations,
        admin_audit,
        admin_evaluations,
        admin_gc,
        admin_keys,
        admin_settings,
        admin_usage,
        health,
        describe,
    ):
        app.include_router(part.build_router(services))
    app.add_middleware(Observe, tracer=services.tracer, drain=services.drain)
    app.state.direct = {
        route.path.encode(): Observe(route.app, tracer=services.tracer, drain=services.drain, route=route)
        for route in busy
    }
    _answer_errors(app)
    return app


def _build(
    settings: Settings,
    registry: Registry,
    store: Store,
    base: BaseModel,
    base_name: str,
    engine_token: str,
    local_key: str | None,
    gateway_id: str,
    place: Place,
    provider: TracerProvider,
) -> Services:
    metrics = GatewayMetrics(CollectorRegistry(), place.share(settings.metrics_adapter_limit), shared=place.metrics)
    siblings = Siblings(place.family, place.number, place.workers)
    table = RoutingTable(registry, base, base_name, settings.base_limits, siblings)
    timeouts = Timeouts(
        connect=settings.connect_timeout,
        first_byte=settings.first_byte_timeout,
        chunk=settings.chunk_timeout,
        total=settings.request_timeout,
    )
    engine = EngineClient(settings.engine, engine_token, gateway_id, timeouts=timeouts)
    ledger = Ledger(metrics)

    def take(usage: Usage, position: Position) -> None:
        ledger.record(usage)
        limiter.record(usage)
        book.add(usage, position)

    follower = UsageFollower(engine, take)
    book = UsageBook(registry.usage, gateway_id, follower.resume, metrics.usage_write_failures.inc)
    key_uses = KeyUses(registry.keys)
    auth = Authenticator(
        registry.keys,
        key_uses,
        open_inference=settings.open_inference,
        local_key=local_key,
        tokens=_tokens(settings),
    )
    table.read_along.append(auth.refresh)
    limits = adapter_limits(settings)
    watch = EngineWatch(engine, base, metrics)
    engine.on_failure.append(watch.request_failed)
    limiter = Limiter(metrics, lambda: watch.state.max_model_len)
    rates = RedisLimits(settings.limits_url) if settings.limits_url else registry.limits
    drain, background = Drain(), Background()
    return Services(
        settings=settings,
        registry=registry,
        store=store,
        base=base,
        table=table,
        engine=engine,
        watch=watch,
        pins=PinKeeper(engine, watch, table),
        limiter=limiter,
        sharing=Sharing(limiter, rates, registry.limits, uuid.uuid4().hex),
        ledger=ledger,
        usage=follower,
        book=book,
        auth=auth,
        key_uses=key_uses,
        registrar=Registrar(
            registry,
            store,
            base,
            table,
            limits,
            SmokeProbe(engine, watch, settings.smoke_probe),
            settings.promotion_gate,
        ),
        drain=drain,
        metrics=metrics,
        tracer=provider.get_tracer(tracing.SCOPE, __version__),
        background=background,
        operations=Operations(registry.operations, background, drain, uuid.uuid4().hex),
    )


def _tokens(settings: Settings) -> TokenVerifier | None:
    """What verifies tokens, if the operator takes any."""
    if settings.jwt_issuer is None:
        return None
    claims = Claims(
        settings.jwt_issuer,
        settings.jwt_audience,
        settings.jwt_tenant_claim,
        settings.jwt_scopes_claim,
        settings.jwt_scope_prefix,
        settings.jwt_adapters_claim,
        settings.jwt_limits,
    )
    source = WebKeys(settings.jwt_jwks_url) if settings.jwt_jwks_url else FileKeys(settings.jwt_jwks_file or Path())
    return TokenVerifier(claims, SigningKeys(source))


def _lifespan(services: Services, place: Place):  # type: ignore[no-untyped-def]  # FastAPI's own type is private
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with services.engine:
            await services.table.refresh()
            services.usage.resume(await services.book.open())
            await services.sharing.start()
            services.background.start(services.book.keep())
            if place.first:  # one teller is enough, and two could contradict each other for a moment
                services.background.start(services.pins.follow())
            for part in (
                services.table,
                services.watch,
                services.usage,
                services.sharing,
                services.operations,
                services.key_uses,
                services.auth,
            ):
                services.background.start(part.follow())
            try:
                yield
                await services.ledger.settled()
            finally:
                await services.background.stop()
                await services.sharing.close()
                await services.book.close()
                await services.key_uses.flush()

    return lifespan


def _answer_errors(app: FastAPI) -> None:
    """Every error leaves in OpenAI's shape: ours, the framework's, and what nobody foresaw."""

    async def ours(request: Request, error: Exception) -> Response:
        return _response(explain(error))

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        cause = first.get("ctx", {}).get("error")
        if isinstance(cause, (GatewayError, LoraDockError)):  # a parameter of ours has its own words and code
            return _response(explain(cause))
        where = ".".join(str(part) for part in first["loc"])
        param = str(first["loc"][-1])
        return _response(
            explain(BadRequest(f"{where}: {first['msg']} (got {str(first.get('input'))[:80]!r})", param=param))
        )

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        text = {
            404: f"no route {request.method} {request.url.path}; see GET /v1/models for what this server has",
            405: f"{request.url.path} does not take {request.method}",
        }.get(error.status_code, str(error.detail))
        headers = {name.lower(): value for name, value in (error.headers or {}).items()}
        if error.status_code == 405:
            headers["allow"] = ", ".join(_methods_of(app, request))  # the framework looks at one route only
        return _response(http_error(error.status_code, text), headers)

    async def unforeseen(request: Request, error: Exception) -> Response:
        # Answered outside of `Observe`, which would add the id; the server logs the traceback.
        call: Call = request.scope[CALL]
        _log.error("request %s failed: %r", call.request_id, error)
        return _response(explain(error), {wire.REQUEST_ID: call.request_id})

    for kind in (GatewayError, ClientGone, LoraDockError):
        app.add_exception_handler(kind, ours)
    app.add_exception_handler(Exception, unforeseen)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)


def _methods_of(app: FastAPI, request: Request) -> list[str]:
    """The methods that this path takes."""
    there = (route for route in app.router.routes if route.matches(request.scope)[0] is not Match.NONE)
    return sorted({method for route in there for method in getattr(route, "methods", None) or ()})


def _response(answer: ErrorAnswer, extra: dict[str, str] | None = None) -> Response:
    return Response(answer.body, answer.status, {**(extra or {}), **dict(answer.headers)})
