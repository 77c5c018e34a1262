"""`/v1/models`: what a client may ask for. The base model, and each adapter that can be answered, by name.

What its key may not use does not exist for a client, here as for inference.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends
from starlette.requests import Request

from loradock_adapters.registry import VersionRecord
from loradock_server.gateway.caller import Caller
from loradock_server.gateway.services import Services

OWNER = "loradock"


def build_router(services: Services) -> APIRouter:
    """The routes, on these services."""
    router = APIRouter(prefix="/v1/models", dependencies=[Depends(services.inference)])
    table = services.table

    @router.get("")
    async def list_models(request: Request) -> dict[str, Any]:
        caller: Caller = request.state.caller
        live = (adapter.live[0] for adapter in table.catalogue.adapters.values() if adapter.live)
        seen = (version for version in live if caller.may_use(version.ref.name))
        adapters = [_adapter(services, v.ref.name, v) for v in seen if table.why_not_served(v) is None]
        base = [_base(services)] if caller.may_use(table.base_name) else []
        return {"object": "list", "data": [*base, *adapters]}

    @router.get("/{model:path}")  # base models are called org/name often
    async def show_model(model: str, request: Request) -> dict[str, Any]:
        caller: Caller = request.state.caller
        table.resolve(model, visible=caller.names)  # which says it as clients are told
        if model == table.base_name:
            return _base(services)
        route = table.catalogue.route(model)
        return _adapter(services, model, route.adapter.versions[route.split.heaviest])

    return router


def _base(services: Services) -> dict[str, Any]:
    name = services.table.base_name
    return {
        "id": name,
        "object": "model",
        "created": 0,  # OpenAI's clients demand a number; a base model's age is not ours to know
        "owned_by": OWNER,
        "root": name,
        "parent": None,
        "max_model_len": services.watch.state.max_model_len or services.settings.max_model_len,
        "digest": services.table.base_digest,
    }


def _adapter(services: Services, asked: str, record: VersionRecord) -> dict[str, Any]:
    return {
        "id": asked,
        "object": "model",
        "created": int(record.created_at.timestamp()),
        "owned_by": OWNER,
        "root": record.ref.id,
        "parent": services.table.base_name,
        "max_model_len": services.watch.state.max_model_len or services.settings.max_model_len,
        "digest": record.digest,
    }
