"""`/admin/keys`: API keys, for keys with the admin scope. A secret is shown once, when it is made."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query
from pydantic import BaseModel as Body
from pydantic import ConfigDict, Field, field_validator
from starlette.requests import Request
from starlette.responses import Response

from loradock_adapters.registry.keys import ADMIN
from loradock_server.gateway.errors import Conflict
from loradock_server.gateway.etags import Condition, etag_header
from loradock_server.gateway.json_body import json_body
from loradock_server.gateway.pages import AFTER, Limit, page_view
from loradock_server.gateway.services import Services
from loradock_server.gateway.views import key_view

KeyId = Annotated[str, Path(max_length=32, description="The key's id, as key-1f2e3d4c5b6a.")]


class NewKey(Body):
    """What POST /admin/keys takes."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(min_length=1, max_length=100)]
    scopes: Annotated[list[Literal["admin", "inference"]], Field(min_length=1)] = ["inference"]

    @field_validator("name")
    @classmethod
    def _printable(cls, name: str) -> str:
        if not name.isprintable():
            raise ValueError("use printable characters only")
        return name


Wanted = Annotated[NewKey, Depends(json_body(NewKey))]


def build_router(services: Services) -> APIRouter:
    """The routes, on these services."""
    router = APIRouter(prefix="/admin/keys", dependencies=[Depends(services.admin)])
    keys = services.registry.keys

    @router.get("")
    async def list_keys(
        limit: Limit = 100, after: Annotated[str | None, Query(max_length=32, description=AFTER)] = None
    ) -> dict[str, Any]:
        found = await asyncio.to_thread(keys.page, after=after, limit=limit + 1)
        return page_view(found, limit, key_view, lambda key: key.id)

    @router.get("/{key_id}")
    async def show_key(key_id: KeyId, response: Response) -> dict[str, Any]:
        key = await asyncio.to_thread(keys.get, key_id)
        response.headers.update(dict(etag_header(key.revision)))
        return key_view(key)

    @router.post("", status_code=201)
    async def create_key(body: Wanted, request: Request) -> dict[str, Any]:
        record, secret = await asyncio.to_thread(keys.create, body.name, body.scopes, by=services.actor(request))
        services.auth.forget()
        return {**key_view(record), "secret": secret}

    @router.delete("/{key_id}")
    async def revoke_key(key_id: KeyId, request: Request, if_match: Condition) -> dict[str, Any]:
        admins = [k.id for k in await asyncio.to_thread(keys.list) if ADMIN in k.scopes and not k.revoked_at]
        if admins == [key_id]:
            raise Conflict(f"key {key_id!r} is the last admin key; create another one before revoking it")
        record = await asyncio.to_thread(keys.revoke, key_id, by=services.actor(request), if_match=if_match)
        services.auth.forget()
        return {**key_view(record), "revoked": True}

    return router
