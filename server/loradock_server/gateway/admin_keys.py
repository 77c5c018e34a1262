"""`/admin/keys`: API keys, for keys with the admin scope. A secret is shown once, when it is made."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query
from pydantic import BaseModel as Body
from pydantic import ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from loradock_adapters.registry import KeyRecord
from loradock_adapters.registry.key_secrets import PREFIX
from loradock_adapters.registry.keys import GRACE, MAX_GRACE
from loradock_server.gateway.etags import Condition, etag_header
from loradock_server.gateway.json_body import json_body, json_object
from loradock_server.gateway.pages import AFTER, Limit, page_view
from loradock_server.gateway.services import Services
from loradock_server.gateway.views import key_view

KeyId = Annotated[str, Path(max_length=32, description="The key's id, as key-1f2e3d4c5b6a.")]

BEGINS = rf"^[!-~]{{0,{PREFIX}}}$"
_MAX_BYTES = 1 << 20


class Rotation(Body):
    """What POST /admin/keys/{key_id}/rotate takes; no body at all is the same as {}."""

    model_config = ConfigDict(extra="forbid")

    grace_seconds: Annotated[int, Field(ge=0, le=int(MAX_GRACE.total_seconds()))] = Field(
        default=int(GRACE.total_seconds()), description="how long the secret until now stays good"
    )


Rotating = Annotated[Rotation, Depends(json_body(Rotation, empty=Rotation()))]


def build_router(services: Services) -> APIRouter:
    """The routes, on these services."""
    router = APIRouter(prefix="/admin/keys", dependencies=[Depends(services.admin)])
    keys = services.registry.keys

    def shown(key: KeyRecord, response: Response) -> dict[str, Any]:
        response.headers.update(dict(etag_header(key.revision)))
        return key_view(key)

    @router.get("")
    async def list_keys(
        limit: Limit = 100,
        after: Annotated[str | None, Query(max_length=32, description=AFTER)] = None,
        begins: Annotated[str, Query(pattern=BEGINS, description="Only keys whose secret begins so.")] = "",
    ) -> dict[str, Any]:
        found = await asyncio.to_thread(keys.page, after=after, limit=limit + 1, begins=begins)
        return page_view(found, limit, key_view, lambda key: key.id)

    @router.get("/{key_id}")
    async def show_key(key_id: KeyId, response: Response) -> dict[str, Any]:
        return shown(await asyncio.to_thread(keys.get, key_id), response)

    @router.post("", status_code=201)
    async def create_key(request: Request, response: Response) -> dict[str, Any]:
        said = await json_object(request, _MAX_BYTES)
        record, secret = await asyncio.to_thread(keys.create, said, by=services.actor(request))
        await services.table.refresh()
        return {**shown(record, response), "secret": secret}

    @router.patch("/{key_id}")
    async def change_key(key_id: KeyId, request: Request, response: Response, if_match: Condition) -> dict[str, Any]:
        patch = await json_object(request, _MAX_BYTES)
        actor = services.actor(request)
        record, _ = await asyncio.to_thread(keys.change, key_id, patch, by=actor, if_match=if_match)
        await services.table.refresh()
        return shown(record, response)

    @router.post("/{key_id}/rotate")
    async def rotate_key(
        key_id: KeyId, body: Rotating, request: Request, response: Response, if_match: Condition
    ) -> dict[str, Any]:
        grace = timedelta(seconds=body.grace_seconds)
        actor = services.actor(request)
        record, secret = await asyncio.to_thread(keys.rotate, key_id, by=actor, grace=grace, if_match=if_match)
        await services.table.refresh()
        return {**shown(record, response), "secret": secret}

    @router.delete("/{key_id}")
    async def revoke_key(key_id: KeyId, request: Request, if_match: Condition) -> dict[str, Any]:
        record = await asyncio.to_thread(keys.revoke, key_id, by=services.actor(request), if_match=if_match)
        await services.table.refresh()
        return {**key_view(record), "revoked": True}

    return router
