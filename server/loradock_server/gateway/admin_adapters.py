"""`/admin/adapters/{name}`: registering, showing, pinning, retiring and deleting, for keys with the admin scope.

Aliases, settings and the list of all have their own files.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel as NewBody
from pydantic import ConfigDict, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from loradock_adapters.errors import AdapterNotFound, VersionNotFound
from loradock_adapters.names import LIVE, AdapterRef
from loradock_adapters.registry import AdapterRecord, VersionRecord
from loradock_server.gateway.answering import Wished, register_as_wished
from loradock_server.gateway.asgi import Body
from loradock_server.gateway.etags import Condition, etag_header
from loradock_server.gateway.intake import Source, Upload, source_limits, source_named
from loradock_server.gateway.json_body import json_body
from loradock_server.gateway.pages import AFTER, Limit, page_view
from loradock_server.gateway.params import AdapterName, Alias, VersionNumber
from loradock_server.gateway.registering import Order
from loradock_server.gateway.services import Services
from loradock_server.gateway.unloading import unloaded
from loradock_server.gateway.views import adapter_view, version_view


class NamedSource(NewBody):
    """What POST …/versions takes instead of files."""

    model_config = ConfigDict(extra="forbid")

    source: str = Field(description="a path on the server, a URI, or sha256: and the digest of bytes that are here")


def build_router(services: Services) -> APIRouter:
    """The routes, on these services."""
    router = APIRouter(prefix="/admin/adapters", dependencies=[Depends(services.admin)])
    table = services.table

    @router.get("/{name}")
    async def show_adapter(name: AdapterName, response: Response) -> dict[str, Any]:
        await table.refresh()
        adapter = require_adapter(services, name)
        response.headers.update(dict(etag_header(adapter.revision)))
        return shown_adapter(services, adapter)

    @router.get("/{name}/versions/{version}")
    async def show_version(name: AdapterName, version: VersionNumber, response: Response) -> dict[str, Any]:
        await table.refresh()
        view = _version_view(services, AdapterRef(name, version))
        response.headers.update(dict(etag_header(require_adapter(services, name).revision)))
        return view

    @router.get("/{name}/versions")
    async def list_versions(
        name: AdapterName,
        limit: Limit = 100,
        after: Annotated[int | None, Query(ge=1, le=999_999_999, description=AFTER)] = None,
    ) -> dict[str, Any]:
        await table.refresh()
        newest_first = sorted(require_adapter(services, name).versions, reverse=True)
        wanted = [version for version in newest_first if after is None or version < after]

        def view(version: int) -> dict[str, Any]:
            return _version_view(services, AdapterRef(name, version))

        return page_view(wanted[: limit + 1], limit, view, lambda version: version)

    @router.post("/{name}/versions")
    async def add_version(
        name: AdapterName,
        request: Request,
        wish: Wished,
        alias: Annotated[Alias, Query(description="The alias that is to point to it.")] = LIVE,
        promote: Annotated[bool, Query(description="Without it no alias does.")] = True,
    ) -> JSONResponse:
        services.registrar.check_name(name)
        order = Order(name, services.actor(request), alias if promote else None)
        return await register_as_wished(services, order, await _source(services, request), wish)

    @router.post("/{name}/versions/{version}/retire")
    async def retire_version(
        name: AdapterName, version: VersionNumber, request: Request, if_match: Condition
    ) -> dict[str, Any]:
        ref = AdapterRef(name, version)
        versions = services.registry.versions
        await asyncio.to_thread(versions.retire, ref, by=services.actor(request), if_match=if_match)
        gone = await unloaded(services, (ref,))
        return {**_version_view(services, ref), "unloaded": gone}

    @router.delete("/{name}/versions/{version}")
    async def delete_version(
        name: AdapterName, version: VersionNumber, request: Request, if_match: Condition
    ) -> dict[str, Any]:
        ref = AdapterRef(name, version)
        versions = services.registry.versions
        await asyncio.to_thread(versions.delete, ref, by=services.actor(request), if_match=if_match)
        gone = await unloaded(services, (ref,))
        return {"object": "adapter.version", "id": ref.id, "deleted": True, "unloaded": gone}

    @router.put("/{name}/pin")
    async def pin_adapter(
        name: AdapterName, request: Request, response: Response, if_match: Condition
    ) -> dict[str, Any]:
        await asyncio.to_thread(services.registry.pin, name, by=services.actor(request), if_match=if_match)
        return await after_change(services, name, response)

    @router.delete("/{name}/pin")
    async def unpin_adapter(
        name: AdapterName, request: Request, response: Response, if_match: Condition
    ) -> dict[str, Any]:
        await asyncio.to_thread(services.registry.unpin, name, by=services.actor(request), if_match=if_match)
        return await after_change(services, name, response)

    @router.delete("/{name}")
    async def delete_adapter(name: AdapterName, request: Request, if_match: Condition) -> dict[str, Any]:
        refs = await asyncio.to_thread(
            services.registry.delete_adapter, name, by=services.actor(request), if_match=if_match
        )
        return {
            "object": "adapter",
            "name": name,
            "deleted": True,
            "versions": [ref.version for ref in refs],
            "unloaded": await unloaded(services, refs),
        }

    return router


def require_adapter(services: Services, name: str) -> AdapterRecord:
    """The adapter as the table knows it. Raises AdapterNotFound."""
    adapter = services.table.catalogue.adapters.get(name)
    if adapter is None:
        raise AdapterNotFound(f"no adapter is named {name[:80]!r}; list the names with `loradock adapters list`")
    return adapter


def shown_adapter(services: Services, adapter: AdapterRecord) -> dict[str, Any]:
    """The adapter as it is shown, with what the engine told of it."""
    return adapter_view(adapter, services.watch.state, services.table.why_not_served, services.settings.trusted_keys)


def require_version(services: Services, ref: AdapterRef) -> VersionRecord:
    """The version as the table knows it. Raises AdapterNotFound, VersionNotFound."""
    adapter = require_adapter(services, ref.name)
    if ref.version not in adapter.versions:
        raise VersionNotFound(f"adapter {ref.name!r} has no version {ref.version}")
    return adapter.versions[ref.version]


def _version_view(services: Services, ref: AdapterRef) -> dict[str, Any]:
    record = require_version(services, ref)
    adapter = require_adapter(services, ref.name)
    return version_view(
        adapter, record, services.watch.state, services.table.why_not_served, services.settings.trusted_keys
    )


async def after_change(services: Services, name: str, response: Response) -> dict[str, Any]:
    """The adapter's view after it changed and the engine, if there is one, has heard of its pin."""
    await services.table.refresh()
    await services.pins.keep()
    await services.watch.ask()
    adapter = require_adapter(services, name)
    response.headers.update(dict(etag_header(adapter.revision)))
    return shown_adapter(services, adapter)


async def _source(services: Services, request: Request) -> Source:
    """Where the request says that the bytes are. Raises BadRequest, SourceRefused, TooLarge."""
    content_type = request.headers.get("content-type", "")
    if content_type.partition(";")[0].strip().lower() != "application/json":
        announced = request.headers.get("content-length", "")
        return Upload(
            content_type,
            Body(request.receive, services.settings.client_timeout),
            services.settings.home / "tmp",
            source_limits(services.settings),
            int(announced) if announced.isdecimal() else None,
        )
    named = await json_body(NamedSource)(request)
    return source_named(named.source, services.settings, services.store)
