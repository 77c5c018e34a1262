"""`/v1/responses/{id}` and below: OpenAI keeps responses, this server does not, and says so.

A kept response would be memory in one engine process without bound, out of reach of every other engine.
"""

from __future__ import annotations

from typing import Annotated, NoReturn

from fastapi import APIRouter, Depends, Path

from loradock_server.gateway.errors import NotKept
from loradock_server.gateway.services import Services

ResponseId = Annotated[str, Path(description="Of a response that was answered before.")]


def build_router(services: Services) -> APIRouter:
    """The routes, on these services."""
    router = APIRouter(prefix="/v1/responses/{response_id}", dependencies=[Depends(services.inference)])

    @router.get("", response_model=None)
    async def show_response(response_id: ResponseId) -> NoReturn:
        raise _not_kept(response_id)

    @router.delete("", response_model=None)
    async def delete_response(response_id: ResponseId) -> NoReturn:
        raise _not_kept(response_id)

    @router.post("/cancel", response_model=None)
    async def cancel_response(response_id: ResponseId) -> NoReturn:
        raise _not_kept(response_id)

    @router.get("/input_items", response_model=None)
    async def list_input_items(response_id: ResponseId) -> NoReturn:
        raise _not_kept(response_id)

    return router


def _not_kept(response_id: str) -> NotKept:
    return NotKept(
        f"response {response_id[:80]!r} is not here: this server keeps no responses. Take the answer from the request "
        "that asked for it, and send the whole conversation as `input`; to cancel, close the connection"
    )
