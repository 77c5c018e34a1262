"""Everything the gateway's routes share, built once in `app` and passed down."""

from __future__ import annotations

from dataclasses import dataclass

from opentelemetry.trace import Tracer
from starlette.requests import Request

from loradock_adapters.base_model import BaseModel
from loradock_adapters.registry import Actor, Registry
from loradock_adapters.store import Store
from loradock_server.drain import Drain
from loradock_server.gateway.accounting import Ledger
from loradock_server.gateway.auth import Authenticator
from loradock_server.gateway.background import Background
from loradock_server.gateway.caller import Caller
from loradock_server.gateway.engine_client import EngineClient
from loradock_server.gateway.key_uses import KeyUses
from loradock_server.gateway.limiting.limiter import Limiter
from loradock_server.gateway.limiting.sharing import Sharing
from loradock_server.gateway.operations import Operations
from loradock_server.gateway.pins import PinKeeper
from loradock_server.gateway.registration import Registrar
from loradock_server.gateway.table import RoutingTable
from loradock_server.gateway.usage import UsageFollower
from loradock_server.gateway.usage_book import UsageBook
from loradock_server.gateway.watch import EngineWatch
from loradock_server.settings import Settings
from loradock_server.telemetry.metrics import GatewayMetrics


@dataclass(frozen=True, slots=True)
class Services:
    settings: Settings
    registry: Registry
    store: Store
    base: BaseModel
    table: RoutingTable
    engine: EngineClient
    watch: EngineWatch
    pins: PinKeeper
    limiter: Limiter
    sharing: Sharing
    ledger: Ledger
    usage: UsageFollower
    book: UsageBook
    auth: Authenticator
    key_uses: KeyUses
    registrar: Registrar
    drain: Drain
    metrics: GatewayMetrics
    tracer: Tracer
    background: Background
    operations: Operations

    async def admin(self, request: Request) -> None:
        """A FastAPI dependency: lets admins in and leaves `request.state.caller`. Raises InvalidKey, MissingScope."""
        request.state.caller = await self.auth.admin(request.headers)

    def actor(self, request: Request) -> Actor:
        """Who asks for a change, for the audit; after `admin` let the request in."""
        caller: Caller = request.state.caller
        return caller.actor(request.client.host if request.client else "")

    async def inference(self, request: Request) -> None:
        """A FastAPI dependency: lets in who may ask for inference. Raises InvalidKey, MissingScope."""
        request.state.caller = await self.auth.inference(request.headers)
