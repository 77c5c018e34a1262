"""`PATCH /admin/adapters/{name}`: what an operator says of an adapter, as a JSON merge patch (RFC 7396)."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from loradock_adapters.strict_json import parse_object
from loradock_server.gateway.admin_adapters import after_change
from loradock_server.gateway.asgi import read_body
from loradock_server.gateway.errors import BadRequest, WrongMediaType
from loradock_server.gateway.etags import Condition
from loradock_server.gateway.params import AdapterName
from loradock_server.gateway.services import Services

_MAX_BYTES = 1 << 20
_TYPES = ("application/merge-patch+json", "application/json")


def build_router(services: Services) -> APIRouter:
    """The route, on these services."""
    router = APIRouter(prefix="/admin/adapters", dependencies=[Depends(services.admin)])

    @router.patch("/{name}")
    async def change_settings(
        name: AdapterName, request: Request, response: Response, if_match: Condition
    ) -> dict[str, Any]:
        patch = await _patch(request)
        change = services.registry.change_settings
        await asyncio.to_thread(change, name, patch, by=services.actor(request), if_match=if_match)
        return await after_change(services, name, response)

    return router


async def _patch(request: Request) -> dict[str, Any]:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in _TYPES:
        raise WrongMediaType(f"the content type is {kind[:80]!r}; send a merge patch as {_TYPES[0]}")
    try:
        return parse_object(await read_body(dict(request.headers), request.receive, _MAX_BYTES))
    except ValueError as error:
        raise BadRequest(f'the patch {error}; send an object like {{"temperature": 0.2, "owner": null}}') from error
