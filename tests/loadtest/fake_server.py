"""A small OpenAI server with known times, to test the load tester against.

Faithful where it matters: real HTTP, server-sent events written one token at a time, usage in a last chunk
without choices, errors in OpenAI's shape, LoRADock's header. It notes when it wrote each token, on the clock
that the client reads, so that a measured time can be compared with the true one.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

KEY = "ld-made-up-for-this-test"
BASE = "tiny-base"
TEMPLATE_TOKENS = 30
TOKENS_PER_WORD = 2


@dataclass(frozen=True, slots=True)
class Script:
    """How one model behaves. `fault`: None, http_503, in_stream, no_done, no_usage, wrong_adapter or hang.

    `together`: nothing measured is answered before so many were under way at a time, or half a minute has passed.
    """

    ttft: float = 0.0
    tpot: float = 0.0
    tokens: int = 3
    fault: str | None = None
    cached_tokens: int | None = None
    together: int = 1


@dataclass(slots=True)
class Seen:
    """One request as the server saw it; instants of time.perf_counter()."""

    model: str
    body: Mapping[str, Any]
    authorization: str | None
    arrived: float
    written: list[float] = field(default_factory=list)

    @property
    def prompt(self) -> str:
        return str(self.body["messages"][0]["content"])


class FakeServer:
    """Answers for the scripted models; `requests` holds all it was asked, `peak` the most at a time.

    `late` is for how long, all in all, a busy machine let nothing of this loop run, neither server nor client.
    """

    def __init__(self, scripts: Mapping[str, Script]) -> None:
        self.scripts = dict(scripts)
        self.requests: list[Seen] = []
        self.url = ""
        self.peak = 0
        self.late = 0.0
        self.all_hanging = asyncio.Event()
        self._under_way = 0

    def asked(self, model: str, *, measured: bool = True) -> list[Seen]:
        """Requests for a model; the probes and warm-ups before the clock are the ones with few tokens."""
        return [seen for seen in self.requests if seen.model == model and (not measured or seen.body["max_tokens"] > 8)]

    async def _models(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != f"Bearer {KEY}":
            return _error(401, "invalid_api_key")
        data = [{"id": BASE, "object": "model", "parent": None}]
        data += [{"id": name, "object": "model", "parent": BASE} for name in self.scripts if name != BASE]
        return web.json_response({"object": "list", "data": data})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        arrived, body = time.perf_counter(), await request.json()
        seen = Seen(body["model"], body, request.headers.get("Authorization"), arrived)
        self.requests.append(seen)
        self._under_way += 1
        self.peak = max(self.peak, self._under_way)
        try:
            return await self._answer(request, seen, self.scripts.get(seen.model, Script()))
        finally:
            self._under_way -= 1

    async def _answer(self, request: web.Request, seen: Seen, script: Script) -> web.StreamResponse:
        if script.fault == "http_503":
            return _error(503, "engine_unavailable")
        answering = "somebody-else" if script.fault == "wrong_adapter" else seen.model
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "x-loradock-adapter": f"{answering}@1"}
        )
        await response.prepare(request)
        await _event(response, _chunk({"role": "assistant", "content": ""}))  # not a token yet
        if script.fault == "hang":
            self.all_hanging.set()
            await asyncio.Event().wait()
        if seen.body["max_tokens"] > 8:
            await self._until_together(script.together)
        await asyncio.sleep(script.ttft)
        tokens = min(script.tokens, seen.body["max_tokens"])
        for number in range(tokens):
            if number:
                await asyncio.sleep(script.tpot)
            seen.written.append(time.perf_counter())
            await _event(response, _chunk({"content": f"t{number} "}))
            if script.fault == "in_stream":
                await _event(response, {"error": {"message": "gone", "code": "engine_unavailable"}})
        if seen.body.get("stream_options", {}).get("include_usage") and script.fault != "no_usage":
            await _event(response, {"choices": [], "usage": _usage(seen, tokens, script.cached_tokens)})
        if script.fault != "no_done":
            await response.write(b"data: [DONE]\n\n")
        return response

    async def _until_together(self, count: int) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(30):
                while self.peak < count:
                    await asyncio.sleep(0.005)

    async def _watch(self) -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(0.005)
            self.late += time.perf_counter() - began - 0.005


@asynccontextmanager
async def serve(scripts: Mapping[str, Script]) -> AsyncIterator[FakeServer]:
    """Listen on a free port of 127.0.0.1 until the block ends."""
    server = FakeServer(scripts)
    app = web.Application()
    app.router.add_get("/v1/models", server._models)
    app.router.add_post("/v1/chat/completions", server._chat)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    watching = asyncio.create_task(server._watch())
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield server
    finally:
        watching.cancel()
        await runner.cleanup()


def _chunk(delta: Mapping[str, str]) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": None}], "usage": None}


def _usage(seen: Seen, tokens: int, cached: int | None) -> dict[str, Any]:
    usage: dict[str, Any] = {
        "prompt_tokens": TEMPLATE_TOKENS + TOKENS_PER_WORD * len(seen.prompt.split()),
        "completion_tokens": tokens,
    }
    return usage if cached is None else {**usage, "prompt_tokens_details": {"cached_tokens": cached}}


def _error(status: int, code: str) -> web.Response:
    return web.json_response({"error": {"message": code, "type": "x", "param": None, "code": code}}, status=status)


async def _event(response: web.StreamResponse, event: Mapping[str, Any]) -> None:
    await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")
