"""`/admin/adapters`: registering, showing, pinning and deleting adapters, for keys with the admin scope."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import JSONResponse

from loradock_adapters.errors import AdapterNotFound, VersionNotFound
from loradock_adapters.names import AdapterRef
from loradock_adapters.registry import AdapterRecord
from loradock_server.gateway.asgi import Body, read_body
from loradock_server.gateway.auth import Caller
from loradock_server.gateway.errors import (
    BadRequest,
    EngineTimeout,
    EngineUnavailable,
    TooLarge,
)
from loradock_server.gateway.registration import Registered, allowed_folder
from loradock_server.gateway.services import Services
from loradock_server.gateway.uploads import received_folder
from loradock_server.gateway.views import adapter_view, version_view

# A version that still answers somebody drains in the engine; the deleting client does not wait for that.
_UNLOAD_WAIT_SECONDS = 5.0


def build_router(services: Services) -> APIRouter:
    """The routes, on these services."""
    router = APIRouter(prefix="/admin/adapters", dependencies=[Depends(services.admin)])
    table, watch = services.table, services.watch

    @router.get("")
    async def list_adapters() -> dict[str, Any]:
        await table.refresh()
        adapters = table.catalogue.adapters.values()
        return {
            "object": "list",
            "data": [adapter_view(adapter, watch.state, table.why_not_served) for adapter in adapters],
            "memory": watch.state.memory,
        }

    @router.get("/{name}")
    async def show_adapter(name: str) -> dict[str, Any]:
        await table.refresh()
        return adapter_view(_adapter(services, name), watch.state, table.why_not_served)

    @router.get("/{name}/versions/{version}")
    async def show_version(name: str, version: int) -> dict[str, Any]:
        await table.refresh()
        adapter = _adapter(services, name)
        if version not in adapter.versions:
            raise VersionNotFound(f"adapter {name!r} has no version {version}")
        return version_view(adapter, adapter.versions[version], watch.state, table.why_not_served)

    @router.post("/{name}/versions")
    async def add_version(name: str, request: Request) -> JSONResponse:
        caller: Caller = request.state.caller
        services.registrar.check_name(name)
        content_type = request.headers.get("content-type", "")
        if content_type.partition(";")[0].strip().lower() == "application/json":
            done = await _from_source(services, name, request, caller)
        else:
            done = await _from_upload(services, name, content_type, request, caller)
        return _registered_view(services, done)

    @router.put("/{name}/pin")
    async def pin_adapter(name: str) -> dict[str, Any]:
        await asyncio.to_thread(services.registry.pin, name)
        return await _with_its_pin(services, name)

    @router.delete("/{name}/pin")
    async def unpin_adapter(name: str) -> dict[str, Any]:
        await asyncio.to_thread(services.registry.unpin, name)
        return await _with_its_pin(services, name)

    @router.delete("/{name}")
    async def delete_adapter(name: str) -> dict[str, Any]:
        refs = await asyncio.to_thread(services.registry.delete_adapter, name)
        await table.refresh()
        unloading = services.background.start(_unload(services, refs))
        await asyncio.wait({unloading}, timeout=_UNLOAD_WAIT_SECONDS)
        return {
            "object": "adapter",
            "name": name,
            "deleted": True,
            "versions": [ref.version for ref in refs],
            "unloaded": unloading.done(),
        }

    return router


def _adapter(services: Services, name: str) -> AdapterRecord:
    adapter = services.table.catalogue.adapters.get(name)
    if adapter is None:
        raise AdapterNotFound(f"no adapter is named {name[:80]!r}; list the names with `loradock adapters list`")
    return adapter


async def _with_its_pin(services: Services, name: str) -> dict[str, Any]:
    """The adapter after its pin changed and the engine, if there is one, has heard of it."""
    await services.table.refresh()
    await services.pins.keep()
    await services.watch.ask()
    return adapter_view(_adapter(services, name), services.watch.state, services.table.why_not_served)


async def _from_source(services: Services, name: str, request: Request, caller: Caller) -> Registered:
    body = await read_body(dict(request.headers), request.receive, services.settings.max_body_bytes)
    try:
        source = json.loads(body)["source"]
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise BadRequest('the body must be {"source": "/absolute/path"}', param="source") from error
    if not isinstance(source, str) or "\0" in source:
        raise BadRequest(f"source is a {type(source).__name__}; it must be an absolute path", param="source")
    folder = await asyncio.to_thread(allowed_folder, source, services.settings.source_roots)
    return await services.registrar.register(name, folder, source=str(folder), created_by=caller.name)


async def _from_upload(
    services: Services, name: str, content_type: str, request: Request, caller: Caller
) -> Registered:
    parent: Path = services.settings.home / "tmp"
    limit = services.settings.max_adapter_bytes
    body = Body(request.receive)
    try:
        async with received_folder(content_type, aiter(body), parent, limit) as folder:
            return await services.registrar.register(name, folder, source="upload", created_by=caller.name)
    except (TooLarge, BadRequest):
        await body.drain()
        raise


def _registered_view(services: Services, done: Registered) -> JSONResponse:
    registration = done.registration
    ref = registration.ref
    adapter = services.table.catalogue.adapters.get(ref.name)
    aliases = adapter.aliases if adapter is not None else {}
    view = {
        "object": "adapter.version",
        "id": ref.id,
        "name": ref.name,
        "version": ref.version,
        "digest": registration.digest,
        "created": registration.created,
        "aliases": sorted(alias for alias, number in aliases.items() if number == ref.version),
        "report": done.report.as_dict(),
    }
    return JSONResponse(view, status_code=201 if registration.created else 200)


async def _unload(services: Services, refs: tuple[AdapterRef, ...]) -> None:
    """Free the engine's memory; an engine that is down has none, and an id is never given twice."""
    for ref in refs:
        if ref.id not in services.watch.state.adapters and services.watch.state.ready:
            continue
        try:
            await services.engine.unload(ref.id)
        except (EngineUnavailable, EngineTimeout):
            continue
