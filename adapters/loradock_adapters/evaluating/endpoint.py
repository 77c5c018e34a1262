"""An OpenAI endpoint, asked patiently: what says "later" is asked again, what says "no" is an error.

It knows HTTP and JSON, and nothing of what is asked.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import httpx

from loradock_adapters.evaluating.errors import ServerGone, ServerSaidNo

_LATER = (408, 409, 425, 429, 500, 502, 503, 504)
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_LONGEST_WAIT = 30.0
_SHOWN = 300


class Endpoint:
    """A connection pool to `url` (without /v1); use it as an async context manager.

    `patience`: seconds for which a request is tried again. `timeout`: seconds for one answer.
    """

    def __init__(
        self,
        url: str,
        key: str | None,
        *,
        concurrency: int = 8,
        patience: float = 180.0,
        timeout: float = 600.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.url = url.rstrip("/").removesuffix("/v1").rstrip("/")
        self._patience = patience
        self._http = httpx.AsyncClient(
            headers={"accept": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {}),
            timeout=httpx.Timeout(timeout, connect=10.0, pool=None),
            limits=httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency),
            transport=transport,
            trust_env=urlsplit(self.url).hostname not in _LOOPBACK,
        )
        self._places = asyncio.Semaphore(concurrency)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def get(self, path: str) -> Mapping[str, Any]:
        """The JSON object at `path`. Raises ServerSaidNo, ServerGone."""
        return await self._ask("GET", path, None)

    async def post(self, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """The JSON object that answers `body`. Raises ServerSaidNo, ServerGone."""
        return await self._ask("POST", path, json.dumps(body, ensure_ascii=False).encode())

    async def _ask(self, method: str, path: str, content: bytes | None) -> Mapping[str, Any]:
        headers = {} if content is None else {"content-type": "application/json"}
        loop = asyncio.get_running_loop()
        until, wait = loop.time() + self._patience, 0.125
        while True:
            asked: float | None = None
            try:
                async with self._places:
                    response = await self._http.request(method, self.url + path, content=content, headers=headers)
            except httpx.HTTPError as error:
                trouble = f"{self.url} does not answer: {error or type(error).__name__}"
            else:
                if response.is_success:
                    return _object(response, self.url + path)
                trouble = f"{self.url}{path} answered HTTP {response.status_code}: {_words(response)}"
                if response.status_code not in _LATER or response.headers.get("x-should-retry") == "false":
                    raise ServerSaidNo(trouble, status=response.status_code, fix=_fix(response.status_code))
                asked = _retry_after(response)
            wait = min(_LONGEST_WAIT, wait * 2)
            pause = max(asked or 0.0, wait * random.uniform(0.5, 1.0))
            if loop.time() + pause > until:
                raise ServerGone(
                    f"{trouble} (tried for {self._patience:g} s)",
                    fix="what was answered is kept: run the same command again when the server answers",
                )
            await asyncio.sleep(pause)


def _object(response: httpx.Response, where: str) -> Mapping[str, Any]:
    try:
        document = response.json()
    except (ValueError, RecursionError) as error:
        raise ServerSaidNo(f"{where} answered with something that is no JSON", status=response.status_code) from error
    if not isinstance(document, dict):
        raise ServerSaidNo(f"{where} answered with a JSON {type(document).__name__}", status=response.status_code)
    return document


def _words(response: httpx.Response) -> str:
    try:
        message = response.json()["error"]["message"]
    except (ValueError, KeyError, TypeError, RecursionError):
        message = response.text
    return str(message)[:_SHOWN]


def _retry_after(response: httpx.Response) -> float | None:
    try:
        return max(0.0, float(response.headers["retry-after"]))
    except (KeyError, ValueError):
        return None


def _fix(status: int) -> str | None:
    if status in (401, 403):
        return "the key must be one that may use the adapter and its base model (LORADOCK_API_KEY)"
    return None
