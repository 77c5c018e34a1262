"""`/openapi.json`: this gateway described, open to anyone who reaches the port."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse

from loradock_server.gateway.openapi import OPERATIONS, build_document
from loradock_server.gateway.services import Services


def build_router(services: Services) -> APIRouter:
    """The route. The document says nothing of these services: it is the same for every gateway."""
    router = APIRouter()
    made: list[JSONResponse] = []

    @router.get("/openapi.json")
    async def openapi(request: Request) -> JSONResponse:
        if not made:
            made.append(JSONResponse(build_document(OPERATIONS, request.app.routes)))
        return made[0]

    return router
