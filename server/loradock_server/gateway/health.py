"""`/healthz`, `/readyz` and `/metrics`: open to anyone who reaches the port, showing names and numbers only."""

from __future__ import annotations

from contextlib import suppress

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from loradock_server.gateway.errors import RETRY_AFTER_SECONDS, EngineTimeout, EngineUnavailable
from loradock_server.gateway.services import Services

_PAGE_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def build_router(services: Services) -> APIRouter:
    """The routes, on these services."""
    router = APIRouter()

    @router.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @router.get("/readyz")
    async def readyz() -> JSONResponse:
        reason = "shutting down" if services.drain.draining else services.watch.state.problem
        if reason is None:
            return JSONResponse({"status": "ready"})
        retry = {"retry-after": str(RETRY_AFTER_SECONDS)}
        return JSONResponse({"status": "not ready", "reason": reason}, status_code=503, headers=retry)

    @router.get("/metrics")
    async def metrics() -> Response:
        """Our own families, then the engine's page as it is; that part is missing while it is down."""
        page = services.metrics.page()
        with suppress(EngineUnavailable, EngineTimeout):
            page += await services.engine.metrics()
        return Response(page, media_type=_PAGE_TYPE)

    return router
