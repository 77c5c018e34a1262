"""`/admin/audit`: who changed what in the registry, newest first, page by page."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query

from loradock_adapters.registry.audit import MAX_ID
from loradock_server.gateway.pages import AFTER, Limit, page_view
from loradock_server.gateway.params import Name
from loradock_server.gateway.services import Services
from loradock_server.gateway.views import event_view


def build_router(services: Services) -> APIRouter:
    """The route, on these services."""
    router = APIRouter(prefix="/admin/audit", dependencies=[Depends(services.admin)])

    @router.get("")
    async def list_events(
        adapter: Annotated[Name | None, Query(description="Only of this adapter.")] = None,
        limit: Limit = 50,
        after: Annotated[int | None, Query(ge=1, le=MAX_ID, description=AFTER)] = None,
    ) -> dict[str, Any]:
        # One more than asked for tells whether there is another page.
        events = await asyncio.to_thread(
            services.registry.audit.page, adapter=adapter, before_id=after, limit=limit + 1
        )
        return page_view(events, limit, event_view, lambda event: event.id)

    return router
