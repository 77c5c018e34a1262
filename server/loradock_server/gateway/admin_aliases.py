"""`/admin/adapters/{name}/aliases`: where names lead, switched at once, with the way back.

Every answer carries an ETag; a change with If-Match happens only if nobody else changed the alias meanwhile.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel as Body
from pydantic import ConfigDict, Field, model_validator
from starlette.requests import Request
from starlette.responses import Response

from loradock_adapters.errors import AliasNotFound
from loradock_adapters.registry import Gate, Split
from loradock_server.gateway.admin_adapters import require_adapter
from loradock_server.gateway.etags import Condition, etag_header
from loradock_server.gateway.json_body import json_body
from loradock_server.gateway.pages import AFTER, Limit, page_view
from loradock_server.gateway.params import AdapterName, Alias, AliasName
from loradock_server.gateway.services import Services
from loradock_server.gateway.views import alias_view

VersionNumber = Annotated[int, Field(ge=1, le=999_999_999)]


class NewTarget(Body):
    """What PUT takes: `version`, or `split` with weights by version; `force`: why the gate is not to count."""

    model_config = ConfigDict(extra="forbid")

    version: VersionNumber | None = None
    split: dict[VersionNumber, int] | None = None
    force: Annotated[str, Field(min_length=1, max_length=500)] | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> NewTarget:
        if (self.version is None) == (self.split is None):
            raise ValueError('give either {"version": 3} or {"split": {"3": 90, "4": 10}}')
        return self

    def as_split(self) -> Split:
        """Raises InvalidSplit."""
        return Split.of(self.split) if self.split is not None else Split.to(self.version or 0)


Target = Annotated[NewTarget, Depends(json_body(NewTarget))]


def build_router(services: Services) -> APIRouter:
    """The routes, on these services."""
    router = APIRouter(prefix="/admin/adapters/{name}/aliases", dependencies=[Depends(services.admin)])
    aliases = services.registry.aliases

    @router.get("")
    async def list_aliases(
        name: AdapterName, limit: Limit = 100, after: Annotated[Alias | None, Query(description=AFTER)] = None
    ) -> dict[str, Any]:
        await services.table.refresh()
        adapter = require_adapter(services, name)
        wanted = [adapter.aliases[alias] for alias in sorted(adapter.aliases) if after is None or alias > after]
        return page_view(wanted, limit, lambda alias: alias_view(name, alias), lambda alias: alias.alias)

    @router.get("/{alias}")
    async def show_alias(name: AdapterName, alias: AliasName, response: Response) -> dict[str, Any]:
        return await _shown(services, name, alias, response)

    @router.put("/{alias}")
    async def set_alias(
        name: AdapterName, alias: AliasName, body: Target, request: Request, response: Response, if_match: Condition
    ) -> dict[str, Any]:
        split = body.as_split()
        rules = services.settings.promotion_gate
        gate = None if rules is None else Gate(rules, body.force)
        by = services.actor(request)
        await asyncio.to_thread(aliases.set, name, alias, split, by=by, if_match=if_match, gate=gate)
        return await _shown(services, name, alias, response)

    @router.post("/{alias}/rollback")
    async def roll_back(
        name: AdapterName, alias: AliasName, request: Request, response: Response, if_match: Condition
    ) -> dict[str, Any]:
        await asyncio.to_thread(aliases.rollback, name, alias, by=services.actor(request), if_match=if_match)
        return await _shown(services, name, alias, response)

    @router.delete("/{alias}")
    async def delete_alias(
        name: AdapterName, alias: AliasName, request: Request, if_match: Condition
    ) -> dict[str, Any]:
        await asyncio.to_thread(aliases.remove, name, alias, by=services.actor(request), if_match=if_match)
        await services.table.refresh()
        return {"object": "adapter.alias", "name": name, "alias": alias, "deleted": True}

    return router


async def _shown(services: Services, name: str, alias: str, response: Response) -> dict[str, Any]:
    await services.table.refresh()
    adapter = require_adapter(services, name)
    record = adapter.aliases.get(alias)
    if record is None:
        raise AliasNotFound(f"adapter {name!r} has no alias {alias[:80]!r}")
    response.headers.update(dict(etag_header(record.revision)))
    return alias_view(name, record)
