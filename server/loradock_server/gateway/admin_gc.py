"""`POST /admin/gc`: remove bytes from the store that no version refers to and the engine does not hold."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import BaseModel as Body
from pydantic import ConfigDict, Field
from starlette.requests import Request

from loradock_adapters.garbage import GRACE_SECONDS, collect_garbage, find_garbage
from loradock_adapters.registry import Action
from loradock_server.gateway.json_body import json_body
from loradock_server.gateway.services import Services


class GcOrder(Body):
    """What POST takes; all of it may be left out."""

    model_config = ConfigDict(extra="forbid")

    dry_run: bool = False
    grace_seconds: Annotated[float, Field(ge=0, le=10 * 365 * 86_400, allow_inf_nan=False)] = GRACE_SECONDS


Order = Annotated[GcOrder, Depends(json_body(GcOrder, empty=GcOrder()))]


def build_router(services: Services) -> APIRouter:
    """The route, on these services."""
    router = APIRouter(prefix="/admin/gc", dependencies=[Depends(services.admin)])

    def held() -> Collection[str]:
        return {str(adapter.get("digest")) for adapter in services.watch.state.adapters.values()}

    @router.post("")
    async def collect(request: Request, order: Order) -> dict[str, Any]:
        await services.watch.ask()
        work = find_garbage if order.dry_run else collect_garbage
        found = await asyncio.to_thread(
            work, services.registry, services.store, held=held, grace_seconds=order.grace_seconds
        )
        if found and not order.dry_run:
            after = {"blobs": [garbage.digest for garbage in found]}
            await asyncio.to_thread(
                services.registry.audit.add, services.actor(request), Action.STORE_COLLECTED, after=after
            )
        return {
            "object": "gc",
            "dry_run": order.dry_run,
            "grace_seconds": order.grace_seconds,
            "blobs": [{"digest": garbage.digest, "size_bytes": garbage.size_bytes} for garbage in found],
            "bytes": sum(garbage.size_bytes for garbage in found),
        }

    return router
