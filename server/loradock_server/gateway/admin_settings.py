"""`PATCH /admin/adapters/{name}`: what an operator says of an adapter, as a JSON merge patch (RFC 7396)."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from loradock_server.gateway.admin_adapters import after_change
from loradock_server.gateway.etags import Condition
from loradock_server.gateway.json_body import json_object
from loradock_server.gateway.params import AdapterName
from loradock_server.gateway.services import Services

_MAX_BYTES = 1 << 20


def build_router(services: Services) -> APIRouter:
    """The route, on these services."""
    router = APIRouter(prefix="/admin/adapters", dependencies=[Depends(services.admin)])

    @router.patch("/{name}")
    async def change_settings(
        name: AdapterName, request: Request, response: Response, if_match: Condition
    ) -> dict[str, Any]:
        patch = await json_object(request, _MAX_BYTES)
        change = services.registry.change_settings
        await asyncio.to_thread(change, name, patch, by=services.actor(request), if_match=if_match)
        return await after_change(services, name, response)

    return router
