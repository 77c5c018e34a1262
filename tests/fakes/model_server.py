"""A server as `loradock evaluate` sees one: models, tokens, chats, logprobs and evaluations, with answers by rule.

Faithful enough because everything the command reads has the shape that gateway and vLLM give it (tests/e2e holds the
real ones against the same command): a chat template with a stop token, one token for each character, prompt_logprobs by
token id. What a model says is decided by a test's function; it has no weights, no keys and no memory.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

STOP = "␄"
BASE = "tiny"
DIGEST = "d" * 64
Says = Callable[[str, list[dict[str, str]]], str]
"""(model, messages) → answer."""


def render(messages: list[dict[str, str]], open_ended: bool) -> str:
    text = "".join(f"<{message['role']}>{message['content']}{STOP}\n" for message in messages)
    return text + ("<assistant>" if open_ended else "")


@dataclass
class ModelServer:
    """`says` answers chats; `nats` is what every token of a prompt costs a model. `asked` has every inference request
    with its path; after `fail_after` chats all others answer `failure`.
    """

    says: Says
    nats: dict[str, float] = field(default_factory=dict)
    adapter: str = "helper@3"
    fail_after: int | None = None
    failure: tuple[int, str] = (400, "no more")
    attach_status: int = 201
    may_manage: bool = True
    # After so many chats no more are answered until `released`; `reached` is set when one waits.
    hold_after: int | None = None
    reached: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    attached: list[dict[str, Any]] = field(default_factory=list)

    def chats(self) -> list[dict[str, Any]]:
        return [body for path, body in self.asked if path.endswith("/chat/completions")]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = Starlette(
            routes=[
                Route("/v1/models/{model:path}", self._model),
                Route("/tokenize", self._tokenize, methods=["POST"]),
                Route("/detokenize", self._detokenize, methods=["POST"]),
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/v1/completions", self._completion, methods=["POST"]),
                Route("/admin/adapters/{name}/versions/{version}/evaluations", self._attach, methods=["GET", "POST"]),
            ]
        )
        await app(scope, receive, send)

    async def _model(self, request: Request) -> JSONResponse:
        asked = request.path_params["model"]
        name = self.adapter.partition("@")[0]
        if asked == BASE:
            return JSONResponse({"id": BASE, "root": BASE, "parent": None})
        if asked.partition("@")[0] != name:
            return _error(404, f"model {asked!r} does not exist")
        return JSONResponse({"id": asked, "root": self.adapter, "parent": BASE, "digest": DIGEST})

    async def _body(self, request: Request) -> dict[str, Any]:
        body: dict[str, Any] = await request.json()
        assert body["model"] in (BASE, self.adapter), body["model"]
        self.asked.append((request.url.path, body))
        return body

    async def _tokenize(self, request: Request) -> JSONResponse:
        body = await self._body(request)
        text = body["prompt"] if "prompt" in body else render(body["messages"], body["add_generation_prompt"])
        return JSONResponse({"tokens": [ord(character) for character in text]})

    async def _detokenize(self, request: Request) -> JSONResponse:
        body = await self._body(request)
        return JSONResponse({"prompt": "".join(map(chr, body["tokens"]))})

    async def _chat(self, request: Request) -> JSONResponse:
        body = await self._body(request)
        if self.fail_after is not None and len(self.chats()) > self.fail_after:
            return _error(*self.failure)
        if self.hold_after is not None and len(self.chats()) > self.hold_after:
            self.reached.set()
            while not self.released.is_set():
                await asyncio.sleep(0.02)
        text = self.says(body["model"], body["messages"])
        cut = text[: body["max_tokens"]]
        usage = {"prompt_tokens": len(render(body["messages"], True)), "completion_tokens": len(cut)}
        choice = {
            "message": {"role": "assistant", "content": cut},
            "finish_reason": "stop" if cut == text else "length",
        }
        return JSONResponse({"model": body["model"], "choices": [choice], "usage": usage})

    async def _completion(self, request: Request) -> JSONResponse:
        body = await self._body(request)
        cost = self.nats.get(body["model"], 1.0)
        each = [{str(token): {"logprob": -cost, "rank": 1}} for token in body["prompt"][1:]]
        return JSONResponse({"model": body["model"], "choices": [{"text": "x", "prompt_logprobs": [None, *each]}]})

    async def _attach(self, request: Request) -> JSONResponse:
        if not self.may_manage:
            return _error(403, "the key may not do this")
        if request.method == "GET":
            return JSONResponse({"data": self.attached})
        if self.attach_status != 201:
            return _error(self.attach_status, "the disk is full")
        self.attached.append(await request.json())
        return JSONResponse({"id": len(self.attached)}, status_code=201)


def _error(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": {"message": message, "type": "x", "param": None, "code": None}}, status_code=status)
