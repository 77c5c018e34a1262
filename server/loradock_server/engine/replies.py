"""JSON answers in plain ASGI, errors in OpenAI's shape."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from loradock_server import wire

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


async def reply_json(send: Send, status: int, body: object, *, headers: tuple[tuple[str, str], ...] = ()) -> None:
    await reply_bytes(send, status, json.dumps(body).encode(), "application/json", headers=headers)


async def reply_bytes(
    send: Send, status: int, body: bytes, content_type: str, *, headers: tuple[tuple[str, str], ...] = ()
) -> None:
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [
                (b"content-type", content_type.encode()),
                (b"content-length", str(len(body)).encode()),
                *((name.encode(), value.encode()) for name, value in headers),
            ],
        }
    )
    await send({"type": "http.response.body", "body": body})


async def reply_error(
    send: Send, status: int, message: str, *, code: str, retry_after: int | None = None, param: str | None = None
) -> None:
    """An OpenAI-shaped error; `retry_after` in seconds becomes the Retry-After header."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    headers = () if retry_after is None else (("retry-after", str(retry_after)),)
    await reply_json(send, status, wire.error_body(message, kind=kind, code=code, param=param), headers=headers)
