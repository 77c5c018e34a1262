"""`/admin/operations`: how far long registrations are and how they ended, whichever gateway runs them."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response
from fastapi import Path as InPath

from loradock_server.gateway.answering import OPERATIONS
from loradock_server.gateway.pages import AFTER, Limit, page_view
from loradock_server.gateway.services import Services
from loradock_server.gateway.views import operation_view


def build_router(services: Services) -> APIRouter:
    """The routes, on these services."""
    router = APIRouter(prefix=OPERATIONS, dependencies=[Depends(services.admin)])
    table = services.registry.operations

    @router.get("")
    async def list_operations(
        limit: Limit = 50,
        after: Annotated[str | None, Query(max_length=32, description=AFTER)] = None,
    ) -> dict[str, Any]:
        """Operations, the newest first; those that are over are kept for a week."""
        # One more than asked for tells whether there is another page.
        found = await asyncio.to_thread(table.page, after=after, limit=limit + 1)
        return page_view(found, limit, operation_view, lambda operation: operation.id)

    @router.get("/{id}")
    async def show_operation(
        id: Annotated[str, InPath(max_length=64, description="The operation's id, as the 202 named it.")],
        response: Response,
    ) -> dict[str, Any]:
        """One operation: `state` is running, succeeded (then with `result`) or failed (then with `error`)."""
        operation = await asyncio.to_thread(table.get, id)
        if operation.running:
            response.headers["retry-after"] = "1"
        return operation_view(operation)

    return router
