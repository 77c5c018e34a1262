"""`/admin/adapters` as a whole: its adapters page by page, and new names without a version yet."""

from __future__ import annotations

import asyncio
from itertools import islice
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from starlette.requests import Request
from starlette.responses import JSONResponse

from loradock_adapters.registry import AdapterRecord
from loradock_server.gateway.admin_adapters import require_adapter, shown_adapter
from loradock_server.gateway.errors import BadRequest
from loradock_server.gateway.etags import etag_header
from loradock_server.gateway.json_body import json_object
from loradock_server.gateway.pages import AFTER, Limit, page_view
from loradock_server.gateway.params import Name
from loradock_server.gateway.services import Services

PATH = "/admin/adapters"


def build_router(services: Services) -> APIRouter:
    """The routes, on these services."""
    router = APIRouter(prefix=PATH, dependencies=[Depends(services.admin)])
    table = services.table

    @router.get("")
    async def list_adapters(
        limit: Limit = 100,
        after: Annotated[Name | None, Query(description=AFTER)] = None,
        owner: Annotated[str | None, Query(max_length=1000, description="Only those of this owner.")] = None,
    ) -> dict[str, Any]:
        await table.refresh()
        wanted = (
            adapter
            for name, adapter in table.catalogue.adapters.items()
            if (after is None or name > after) and (owner is None or adapter.settings.owner == owner)
        )

        def view(adapter: AdapterRecord) -> dict[str, Any]:
            return shown_adapter(services, adapter)

        page = page_view(list(islice(wanted, limit + 1)), limit, view, lambda adapter: adapter.name)
        return {**page, "memory": services.watch.state.memory}

    @router.post("")
    async def create_adapter(request: Request) -> JSONResponse:
        said = await json_object(request)
        name = said.pop("name", None)
        if not isinstance(name, str):
            raise BadRequest('the body needs `name`, a string: {"name": "support", "owner": "me"}', param="name")
        services.registrar.check_name(name)
        await asyncio.to_thread(services.registry.create_adapter, name, said, by=services.actor(request))
        await table.refresh()
        adapter = require_adapter(services, name)
        headers = {"location": f"{PATH}/{name}", **dict(etag_header(adapter.revision))}
        return JSONResponse(shown_adapter(services, adapter), 201, headers)

    return router
