"""`/v1/models`: what a client may ask for. The base model, and each adapter that can be answered, by name."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends

from loradock_adapters.registry import VersionRecord
from loradock_server.gateway.services import Services

OWNER = "loradock"


def build_router(services: Services) -> APIRouter:
    """The routes, on these services."""
    router = APIRouter(prefix="/v1/models", dependencies=[Depends(services.inference)])
    table = services.table

    @router.get("")
    async def list_models() -> dict[str, Any]:
        live = (adapter.live[0] for adapter in table.catalogue.adapters.values() if adapter.live)
        adapters = [_adapter(services, v.ref.name, v) for v in live if table.why_not_served(v) is None]
        return {"object": "list", "data": [_base(services), *adapters]}

    @router.get("/{model}")
    async def show_model(model: str) -> dict[str, Any]:
        if model == table.base_name:
            return _base(services)
        table.resolve(model)  # which says it as clients are told
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
