"""JSON bodies of the admin routes: bounded, judged strictly, and read only after the caller was let in.

Unlike FastAPI's own reading it refuses other content types, keys that come twice, NaN, and numbers written as text.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from loradock_adapters.strict_json import parse_object
from loradock_server.gateway.asgi import read_body
from loradock_server.gateway.errors import BadRequest, WrongMediaType
from loradock_server.gateway.services import Services

Shape = TypeVar("Shape", bound=BaseModel)


def json_body(shape: type[Shape], *, empty: Shape | None = None) -> Callable[[Request], Awaitable[Shape]]:
    """A FastAPI dependency that gives the body as this shape; `empty` stands for no body at all.

    It raises BadRequest, RequestValidationError, TooLarge and WrongMediaType.
    """

    async def read(request: Request) -> Shape:
        body = await _bounded(request)
        if not body and empty is not None:
            return empty
        require_json(request.headers.get("content-type"))
        try:
            # From text, because only there a strict reading takes a key of JSON, always text, for a number.
            return shape.model_validate_json(json.dumps(_whole(parse_object(body))), strict=True)
        except ValidationError as error:
            raise RequestValidationError([{**e, "loc": ("body", *e["loc"])} for e in error.errors()]) from error
        except (ValueError, RecursionError) as error:
            raise BadRequest(f"the body cannot be used: {error}") from error

    return read


async def json_object(request: Request, limit: int | None = None) -> dict[str, Any]:
    """The body as an object of whatever fields, of at most `limit` bytes if the server allows more.

    Raises BadRequest, TooLarge and WrongMediaType.
    """
    body = await _bounded(request, limit)
    require_json(request.headers.get("content-type"))
    try:
        found: dict[str, Any] = _whole(parse_object(body))
        return found
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the body cannot be used: {error}") from error


def _whole(value: Any) -> Any:
    """The same with whole numbers as such: to JSON 150.0 is 150."""
    if isinstance(value, dict):
        return {key: _whole(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_whole(part) for part in value]
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


async def _bounded(request: Request, limit: int | None = None) -> bytes:
    services: Services = request.app.state.services
    allowed, seconds = services.settings.max_body_bytes, services.settings.client_timeout
    return await read_body(dict(request.headers), request.receive, min(limit or allowed, allowed), seconds)


def require_json(content_type: str | None) -> None:
    """Raises WrongMediaType for a body that says it is something else; without a word it is taken for JSON."""
    if content_type is None or content_type == "application/json":
        return
    kind = content_type.partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise WrongMediaType(f"the content type is {content_type[:100]!r}; send application/json")
