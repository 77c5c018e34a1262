"""Sends one streaming chat completion and measures it; lists the models a server offers.

A request is good only if its stream ended as it should: status 200, no error event, a usage chunk, `[DONE]`,
and the adapter that was asked for. Knows no workload and keeps no totals.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp

LINE_LIMIT_BYTES = 1 << 20


class ServerUnusable(RuntimeError):
    """The server cannot be reached, or refuses to list its models; the message says what to do."""


class RequestFailed(Exception):
    """One request went wrong; its text is a short kind, the same for the same cause."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where the server is and the key it wants."""

    url: str
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Generation:
    """What every request asks for beside its prompt."""

    max_tokens: int
    ignore_eos: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """One finished request. Times in seconds from when it was due; None where there is nothing to time."""

    model: str
    error: str | None
    late_seconds: float
    e2e_seconds: float
    ttft_seconds: float | None = None
    tpot_seconds: float | None = None
    prompt_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int | None = None


@dataclass(slots=True)
class _Stream:
    """What one stream has shown so far; instants are of time.perf_counter()."""

    first: float | None = None
    last: float | None = None
    usage: Mapping[str, Any] | None = None
    done: bool = field(default=False)


class Client:
    """A connection pool to one server."""

    def __init__(self, session: aiohttp.ClientSession, target: Target) -> None:
        self._session = session
        self._target = target
        self._headers = {"Authorization": f"Bearer {target.key}"} if target.key else {}

    async def models(self) -> dict[str, str | None]:
        """Every model on offer with its parent: None for a base model. Raises ServerUnusable."""
        url = f"{self._target.url}/v1/models"
        try:
            async with self._session.get(url, headers=self._headers) as response:
                if response.status != 200:
                    raise ServerUnusable(
                        f"{url} answers {response.status}: {await _error_code(response)}; "
                        "give the key in LORADOCK_API_KEY"
                    )
                return {model["id"]: model.get("parent") for model in (await response.json())["data"]}
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ServerUnusable(
                f"no server at {self._target.url} ({error}); start one (make serve) or give --url"
            ) from error
        except (KeyError, TypeError, ValueError) as error:
            raise ServerUnusable(f"{url} does not list models as OpenAI does: {error!r}") from error

    async def chat(self, model: str, prompt: str, wanted: Generation, due: float | None = None) -> Outcome:
        """Stream one answer. `due`, of time.perf_counter(), is when an open loop wanted it sent."""
        sent = time.perf_counter()
        due = sent if due is None else due
        stream, error = _Stream(), None
        try:
            await self._read(model, _body(model, prompt, wanted), stream)
        except RequestFailed as failure:
            error = str(failure)
        except TimeoutError:
            error = "timeout"
        except (aiohttp.ClientError, OSError, ValueError) as failure:
            error = f"connection: {type(failure).__name__}"
        end = time.perf_counter()
        usage = stream.usage or {}
        tokens = int(usage.get("completion_tokens") or 0)
        spread = None if stream.first is None or stream.last is None else stream.last - stream.first
        details = usage.get("prompt_tokens_details") or {}
        return Outcome(
            model=model,
            error=error,
            late_seconds=sent - due,
            e2e_seconds=end - due,
            ttft_seconds=None if stream.first is None else stream.first - due,
            tpot_seconds=None if spread is None or tokens < 2 else spread / (tokens - 1),
            prompt_tokens=int(usage.get("prompt_tokens") or 0),
            output_tokens=tokens,
            cached_tokens=details.get("cached_tokens"),
        )

    async def _read(self, model: str, body: Mapping[str, Any], stream: _Stream) -> None:
        url = f"{self._target.url}/v1/chat/completions"
        async with self._session.post(url, json=body, headers=self._headers) as response:
            if response.status != 200:
                raise RequestFailed(f"http {response.status}: {await _error_code(response)}")
            async for payload in _events(response):
                now = time.perf_counter()
                if payload == b"[DONE]":
                    stream.done = True
                    break
                _take(json.loads(payload), now, stream)
            _refuse_other_adapter(model, response.headers.get("x-loradock-adapter"))
        if not stream.done:
            raise RequestFailed("stream: ended without [DONE]")
        if stream.usage is None:
            raise RequestFailed("stream: no usage chunk")


def _body(model: str, prompt: str, wanted: Generation) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": wanted.max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if wanted.ignore_eos:  # vLLM's extension: every answer is exactly max_tokens long
        body["ignore_eos"] = True
    return body


def _take(chunk: Mapping[str, Any], now: float, stream: _Stream) -> None:
    if error := chunk.get("error"):
        raise RequestFailed(f"stream: {_code(error)}")
    if any(_has_content(choice.get("delta") or {}) for choice in chunk.get("choices") or ()):
        stream.first = now if stream.first is None else stream.first
        stream.last = now
    if usage := chunk.get("usage"):
        stream.usage = usage


def _has_content(delta: Mapping[str, Any]) -> bool:
    return any(delta.get(name) for name in ("content", "reasoning_content", "reasoning", "tool_calls"))


def _refuse_other_adapter(model: str, answered: str | None) -> None:
    """The server says which adapter answered: another name than the one asked for is the worst of faults."""
    if answered and answered != "base" and answered.partition("@")[0] != model.partition("@")[0]:
        raise RequestFailed(f"wrong adapter: {answered} answered for {model}")


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    async for line in response.content:
        if line.startswith(b"data:"):
            yield line[5:].strip()


async def _error_code(response: aiohttp.ClientResponse) -> str:
    try:
        return _code((await response.json())["error"])
    except (aiohttp.ClientError, KeyError, TypeError, ValueError):
        return "not an OpenAI-shaped error"


def _code(error: Any) -> str:
    return str(error.get("code") or error.get("type") or "unknown") if isinstance(error, Mapping) else "unknown"
