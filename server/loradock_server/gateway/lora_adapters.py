"""`/v1/load_lora_adapter` and `/v1/unload_lora_adapter`, with vLLM's bodies and answers, on our registry.

For tools that know vLLM. Loading registers what lies at the path as the next version of the name and makes it live,
with the check, the probe and the audit of every registration; unloading takes the name away and keeps the versions.
"""

from __future__ import annotations

import asyncio
import re
from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import BaseModel as Body
from pydantic import ConfigDict, Field
from starlette.requests import Request
from starlette.responses import PlainTextResponse

from loradock_adapters.errors import AdapterNotFound
from loradock_adapters.names import LIVE
from loradock_server import wire
from loradock_server.gateway.errors import BadRequest
from loradock_server.gateway.intake import source_named
from loradock_server.gateway.json_body import json_body
from loradock_server.gateway.params import NAME_SCHEMA
from loradock_server.gateway.registering import Order, add_version
from loradock_server.gateway.services import Services
from loradock_server.gateway.unloading import unloaded

# What vLLM looks for on the hub when there is no such folder.
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")


class LoadLoraAdapter(Body):
    """vLLM's body; fields of other releases of it are ignored, as there."""

    model_config = ConfigDict(extra="ignore")

    lora_name: str = Field(description="The adapter's name.", json_schema_extra={**NAME_SCHEMA})
    lora_path: str = Field(
        description="A folder on the server below its LORADOCK_SOURCE_ROOTS, a URI that its LORADOCK_SOURCE_PREFIXES "
        "open, or an `org/name` on the hub (hf://org/name).",
        json_schema_extra={"minLength": 1},
    )
    load_inplace: bool = Field(default=False, description="Another version takes the place of the one that is live.")
    is_3d_lora_weight: bool = Field(
        default=False, description="Stacked experts; not served here, so false.", json_schema_extra={"const": False}
    )


class UnloadLoraAdapter(Body):
    """vLLM's body."""

    model_config = ConfigDict(extra="ignore")

    lora_name: str = Field(description="The adapter's name.", json_schema_extra={**NAME_SCHEMA})
    lora_int_id: int | None = Field(default=None, description="Not used, as in vLLM.")


Load = Annotated[LoadLoraAdapter, Depends(json_body(LoadLoraAdapter))]
Unload = Annotated[UnloadLoraAdapter, Depends(json_body(UnloadLoraAdapter))]


def build_router(services: Services) -> APIRouter:
    """The routes, on these services."""
    router = APIRouter(prefix="/v1", dependencies=[Depends(services.admin)])
    table, aliases = services.table, services.registry.aliases

    @router.post("/load_lora_adapter", response_class=PlainTextResponse)
    async def load_lora_adapter(body: Load, request: Request) -> PlainTextResponse:
        """Register an adapter and make it live, by vLLM's body."""
        name = body.lora_name
        _require(name, body.lora_path)
        if body.is_3d_lora_weight:
            raise BadRequest("is_3d_lora_weight is true; LoRA on stacked experts is not served", param="lora_path")
        await table.refresh()
        adapter = table.catalogue.adapters.get(name)
        if adapter is not None and LIVE in adapter.aliases and not body.load_inplace:
            raise BadRequest(
                f"The lora adapter {name!r} has already been loaded. If you want to load the adapter in place, "
                "set 'load_inplace' to True.",
                param="lora_name",
            )
        source = source_named(_uri(body.lora_path), services.settings, services.store)
        done = await add_version(services, Order(name, services.actor(request), LIVE), source)
        headers = {wire.ADAPTER: done.ref.id, wire.DIGEST: done.digest}
        return PlainTextResponse(f"Success: LoRA adapter '{name}' added successfully.", headers=headers)

    @router.post("/unload_lora_adapter", response_class=PlainTextResponse)
    async def unload_lora_adapter(body: Unload, request: Request) -> PlainTextResponse:
        """Let the name answer no more; its versions stay and can be promoted again."""
        name = body.lora_name
        _require(name, "-")
        await table.refresh()
        adapter = table.catalogue.adapters.get(name)
        if adapter is None or LIVE not in adapter.aliases:
            raise AdapterNotFound(f"The lora adapter {name[:80]!r} cannot be found.")
        live = [record.ref for record in adapter.live]
        await asyncio.to_thread(aliases.remove, name, LIVE, by=services.actor(request))
        await unloaded(services, [ref for ref in live if adapter.aliases_of(ref.version) == [LIVE]])
        return PlainTextResponse(f"Success: LoRA adapter '{name}' removed successfully.")

    return router


def _require(name: str, path: str) -> None:
    if not name or not path:
        raise BadRequest(
            "Both 'lora_name' and 'lora_path' must be provided.", param="lora_path" if name else "lora_name"
        )


def _uri(path: str) -> str:
    return f"hf://{path}" if _HUB_ID.fullmatch(path) else path
