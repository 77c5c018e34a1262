"""`/admin/usage`: what was used, divided as asked, page by page in JSON or all of it in CSV; and forgetting it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from loradock_adapters.registry import Registry
from loradock_adapters.registry.usage import hour_start
from loradock_adapters.registry.usage_report import MAX_PAGE, Dimension, Group, UsageQuery, Values
from loradock_server.gateway.errors import BadRequest
from loradock_server.gateway.pages import AFTER, Limit, page_view
from loradock_server.gateway.services import Services
from loradock_server.gateway.usage_query import Moment, cursor_of, read_cursor, usage_query
from loradock_server.gateway.usage_rows import counts_view, csv_head, csv_lines, csv_row, row_view
from loradock_server.prices import Prices

CSV = "text/csv"
_DEFAULT_LIMIT = 100
_CURSOR = r"^[A-Za-z0-9_-]+$"

Asked = Annotated[UsageQuery, Depends(usage_query)]


def build_router(services: Services) -> APIRouter:
    """The routes, on these services."""
    router = APIRouter(prefix="/admin/usage", dependencies=[Depends(services.admin)])
    registry, prices = services.registry, services.settings.prices

    @router.get("", response_model=None)
    async def list_usage(
        request: Request,
        query: Asked,
        limit: Annotated[
            Limit | None, Query(description=f"How many rows at most; JSON: {_DEFAULT_LIMIT}, CSV: all.")
        ] = None,
        after: Annotated[str | None, Query(max_length=4000, pattern=_CURSOR, description=AFTER)] = None,
        format: Annotated[
            Literal["json", "csv"] | None, Query(description="Without it: what Accept prefers, else json.")
        ] = None,
    ) -> Response:
        begin = None if after is None else read_cursor(after, query)
        if format == "csv" or (format is None and _prefers_csv(request.headers.get("accept", ""))):
            pages = _pages(registry, query, begin, limit)
            first = await anext(pages)  # a failure still has a status
            head = csv_head(query.by)
            return StreamingResponse(
                _csv(registry, query, first, pages, head, prices),
                media_type=CSV,
                headers={"content-disposition": 'attachment; filename="usage.csv"'},
            )
        return JSONResponse(await asyncio.to_thread(_answer, registry, query, begin, limit or _DEFAULT_LIMIT, prices))

    @router.delete("")
    async def prune_usage(
        request: Request,
        before: Annotated[Moment, Query(description="Hours that ended before this moment are forgotten.")],
    ) -> dict[str, Any]:
        if before > datetime.now(UTC):
            raise BadRequest(f"{before.isoformat()} is not over yet; only the past can be forgotten", param="before")
        gone = await asyncio.to_thread(registry.usage.prune, before, by=services.actor(request))
        return {"object": "usage.pruned", "before": before.isoformat(), "rows": gone}

    return router


def _answer(
    registry: Registry, query: UsageQuery, after: Values | None, limit: int, prices: Prices | None
) -> dict[str, Any]:
    """A page and what all pages come to. Blocks."""
    groups = registry.usage_report.page(query, after=after, limit=limit + 1)
    names = _key_names(registry, query, groups)
    first, end = query.hours
    return {
        **page_view(
            groups, limit, lambda group: row_view(group, query.by, names, prices), lambda group: cursor_of(group.values)
        ),
        "from": None if first is None else hour_start(first).isoformat(),
        "to": None if end is None else hour_start(end).isoformat(),
        "group_by": list(query.by),
        "currency": None if prices is None else prices.currency,
        "total": counts_view(registry.usage_report.total(query).parts, prices),
    }


async def _pages(
    registry: Registry, query: UsageQuery, after: Values | None, limit: int | None
) -> AsyncIterator[list[Group]]:
    """All groups, or `limit` of them, in pieces; the first may be empty."""
    while True:
        size = MAX_PAGE if limit is None else min(limit, MAX_PAGE)
        groups = list(await asyncio.to_thread(registry.usage_report.page, query, after=after, limit=size))
        yield groups
        limit = None if limit is None else limit - len(groups)
        if len(groups) < size or not query.by or limit == 0:
            return
        after = groups[-1].values


async def _csv(
    registry: Registry,
    query: UsageQuery,
    first: list[Group],
    rest: AsyncIterator[list[Group]],
    head: list[str],
    prices: Prices | None,
) -> AsyncIterator[bytes]:
    yield csv_lines([head])
    groups: list[Group] | None = first
    while groups:
        names = await asyncio.to_thread(_key_names, registry, query, groups)
        views = [row_view(group, query.by, names, prices) for group in groups]
        yield csv_lines(csv_row(view, head, prices) for view in views)
        groups = await anext(rest, None)


def _key_names(registry: Registry, query: UsageQuery, groups: Any) -> dict[str, str]:
    if Dimension.KEY not in query.by:
        return {}
    position = query.by.index(Dimension.KEY)
    return dict(registry.usage_report.key_names(str(group.values[position]) for group in groups))


def _prefers_csv(accept: str) -> bool:
    """By name; who takes anything gets JSON."""
    kinds = [part.partition(";")[0].strip().lower() for part in accept.split(",")]
    return CSV in kinds and ("application/json" not in kinds or kinds.index(CSV) < kinds.index("application/json"))
