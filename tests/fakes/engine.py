"""A scripted engine: answers like vLLM behind our guard, but only what a test enqueued.

Faithful enough for the gateway, because everything the gateway can see is real: HTTP by uvicorn on a unix socket, the
wire names of `loradock_server.wire`, the engine's own `UsageFeed`, vLLM's chunk and error shapes, a handler that is
cancelled when the client hangs up, and a death that cuts every connection without a word. It has no model, no
scheduler and no adapter memory; what vLLM really does with a request is the business of tests/e2e.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import uvicorn
from starlette.types import Message, Receive, Scope, Send

from loradock_server import wire
from loradock_server.engine.usage import UsageFeed
from tests.fakes.loop import LoopThread


class Gate:
    """A point where an answer waits until the test opens it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._reached = asyncio.Event()
        self._open = asyncio.Event()

    def open(self) -> None:
        self._loop.call_soon_threadsafe(self._open.set)

    async def passed(self) -> None:
        self._reached.set()
        await self._open.wait()

    async def reached(self) -> None:
        await self._reached.wait()


@dataclass(frozen=True, slots=True)
class Reply:
    """One scripted answer.

    `gate` is waited for before token `gate_at`; `die_at` kills the engine before that token, and `break_off_at` ends
    the stream there as if it were whole. `hang_up_after` seconds cuts every connection instead of answering. `error`
    with `status` answers an error body as it is; `stream_error` comes as the first event of a stream, or, with
    `break_off_at`, as the last one before [DONE]. `pause` is how many seconds each token takes.
    """

    tokens: tuple[str, ...] = ("Hello", " world")
    gate: Gate | None = None
    gate_at: int = 0
    die_at: int | None = None
    break_off_at: int | None = None
    hang_up_after: float | None = None
    status: int = 200
    error: dict[str, Any] | None = None
    stream_error: dict[str, Any] | None = None
    headers: tuple[tuple[str, str], ...] = ()
    input_tokens: int = 5
    pause: float = 0.0
    residency: str = "resident"


@dataclass(frozen=True, slots=True)
class Seen:
    """One request as it arrived."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]


@dataclass(slots=True)
class FakeEngine:
    """Start it with `running_engine`. `history` has every inference request, `published` every usage record, `unloaded`
    every unloaded id, `pins` what it was last told to keep, `pinned` how often it was told, `probed` every probed id;
    `verdict` is what it answers then (status and body); so many `busy_unloads` are refused, as while requests run.
    """

    socket: Path
    thread: LoopThread
    token: str
    base: dict[str, str]
    ready: bool = True
    generation: str = field(default_factory=lambda: uuid.uuid4().hex)
    restarts: int = 0
    adapters: list[dict[str, Any]] = field(default_factory=list)
    history: list[Seen] = field(default_factory=list)
    published: list[dict[str, Any]] = field(default_factory=list)
    aborted: list[str] = field(default_factory=list)
    unloaded: list[str] = field(default_factory=list)
    pins: list[dict[str, Any]] = field(default_factory=list)
    pinned: int = 0
    pin_problem: str | None = None
    memory: dict[str, int] | None = None
    metrics_text: str = "# TYPE loradock_adapter_resident gauge\nloradock_adapter_resident 1.0\n"
    usage_gate: Gate | None = None
    busy_unloads: int = 0
    probed: list[str] = field(default_factory=list)
    probe_orders: list[dict[str, Any]] = field(default_factory=list)
    probe_gate: Gate | None = None
    clock: Callable[[], float] = time.time
    verdict: tuple[int, dict[str, Any]] = (200, {"problem": None, "effect": 0.5, "noise": 0.0})
    _script: deque[Reply] = field(default_factory=deque)
    _feed: UsageFeed = field(default_factory=UsageFeed)
    _server: uvicorn.Server | None = None
    _serving: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        return f"unix:{self.socket}"

    def enqueue(self, *replies: Reply) -> None:
        """The next answers, in order; without any the engine says Hello world."""
        self._script.extend(replies)

    def gate(self) -> Gate:
        return Gate(self.thread.loop)

    def wait_for(self, gate: Gate) -> None:
        """Until an answer stands at this gate."""
        self.thread.run(gate.reached())

    def start(self) -> None:
        self.thread.run(self._start())

    def die(self) -> None:
        """As by kill -9: no answer is finished, no usage reported, and the socket refuses from now on."""
        self.thread.call(self._die)

    def revive(self) -> None:
        """As the supervisor does: a new process, which knows nothing of the old one's requests."""
        self.generation = uuid.uuid4().hex
        self.restarts += 1
        self.pins = []
        self._feed = UsageFeed()
        self.start()

    def cut_connections(self) -> None:
        """Close every connection without a word; the engine goes on."""
        self.thread.run(self._cut_all())

    async def _cut_all(self) -> None:
        self._cut()
        for _ in range(3):  # the loop closes sockets in later turns
            await asyncio.sleep(0)

    async def _start(self) -> None:
        config = uvicorn.Config(self, uds=str(self.socket), lifespan="off", log_config=None, ws="none")
        self._server = _Server(config)
        self._serving = asyncio.create_task(self._server.serve())
        while not self._server.started:
            await asyncio.sleep(0.005)

    def _cut(self) -> None:
        assert self._server is not None
        for connection in list(self._server.server_state.connections):
            connection.transport.abort()

    def _die(self) -> None:
        assert self._server is not None
        for listener in self._server.servers:
            listener.close()
        self.socket.unlink(missing_ok=True)
        self._cut()
        for task in list(self._server.server_state.tasks):
            task.cancel()
        self._server.force_exit = self._server.should_exit = True

    async def _stop(self) -> None:
        if self._server is not None and self._serving is not None:
            self._die()
            await self._serving

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        path: str = scope["path"]
        if path == wire.LIVE:
            await _json(send, 200, {"status": "alive"})
        elif headers.get(wire.TOKEN) != self.token:
            await _json(
                send, 401, wire.error_body("no token", kind="invalid_request_error", code="engine_token_required")
            )
        elif path == wire.STATE:
            await _json(send, 200, self._state())
        elif path == wire.METRICS:
            await _answer(send, 200, "text/plain", self.metrics_text.encode())
        elif path == wire.PINS:
            self.pins, self.pinned = (await _body(receive))["pins"], self.pinned + 1
            await _json(send, 200, {"pins": len(self.pins)})
        elif path == wire.UNLOAD:
            adapter_id = (await _body(receive))["id"]
            if self.busy_unloads:
                self.busy_unloads -= 1
                await _json(send, 503, wire.error_body("it still answers", kind="server_error", code="busy"))
                return
            self.unloaded.append(adapter_id)
            await _json(send, 200, {"unloaded": True})
        elif path == wire.PROBE:
            await self._probe(receive, send)
        elif path == wire.USAGE:
            await self._usage(scope, receive, send)
        else:
            await self._inference(path, headers, receive, send)

    async def _probe(self, receive: Receive, send: Send) -> None:
        order = await _body(receive)
        self.probed.append(order["id"])
        self.probe_orders.append(order)
        if self.probe_gate is not None:
            await self.probe_gate.passed()
        status, verdict = self.verdict
        await _json(send, status, verdict)

    def _state(self) -> dict[str, Any]:
        return {
            "ready": self.ready,
            "generation": self.generation,
            "restarts": self.restarts,
            "base": self.base,
            "max_model_len": 512,
            "adapters": self.adapters,
            "pins": [{**pin, "pin_problem": self.pin_problem} for pin in self.pins],
            "memory": self.memory,
        }

    async def _usage(self, scope: Scope, receive: Receive, send: Send) -> None:
        query = parse_qs(scope["query_string"].decode())
        headers = [(b"content-type", b"application/x-ndjson"), (wire.GENERATION.encode(), self.generation.encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})

        async def follow() -> None:
            async for line in self._feed.follow(query["gateway"][0], int(query["after"][0])):
                await send({"type": "http.response.body", "body": line, "more_body": True})

        await _until_disconnect(follow(), receive)

    async def _inference(self, path: str, headers: dict[str, str], receive: Receive, send: Send) -> None:
        seen = Seen(path, headers, await _body(receive))
        self.history.append(seen)
        reply = self._script.popleft() if self._script else Reply()
        sent = _Progress()
        feed = self._feed  # of this process: a later one gets no records of its predecessor
        finished = await _until_disconnect(self._reply(reply, seen, sent, send), receive)
        if not finished:
            self.aborted.append(headers[wire.REQUEST_ID])
        if sent.died:
            return
        if self.usage_gate is not None:
            await self.usage_gate.passed()
        record = {
            "request_id": headers[wire.REQUEST_ID],
            "adapter": headers.get(wire.ADAPTER),
            "digest": headers.get(wire.DIGEST),
            "input_tokens": reply.input_tokens if reply.error is None else 0,
            "output_tokens": sent.tokens,
            "cached_tokens": 2 if reply.error is None else 0,
            "finish_reason": "stop" if finished else "abort",
            "queue_seconds": 0.001,
            "time_to_first_token_seconds": 0.123,
            "residency": reply.residency,
            "ended_at": self.clock(),
            "key": headers.get(wire.KEY, ""),
            "tenant": headers.get(wire.TENANT, ""),
            "status": reply.status,
        }
        self.published.append(record)
        if path in wire.READING:
            return
        await feed.publish(headers[wire.GATEWAY], record)

    async def _reply(self, reply: Reply, seen: Seen, sent: _Progress, send: Send) -> None:
        if reply.hang_up_after is not None:
            await asyncio.sleep(reply.hang_up_after)
            self._cut()
            await asyncio.sleep(60)
        extra = ((wire.RESIDENCY, reply.residency), *reply.headers)
        if reply.error is not None:
            await _json(send, reply.status, reply.error, extra)
            return
        chunks = _Chunks(seen)
        if not seen.body.get("stream"):
            async for _ in self._tokens(reply, sent):
                pass
            await _json(send, 200, chunks.whole(reply), extra)
            return
        raw = [(name.encode(), value.encode()) for name, value in extra]
        raw.append((b"content-type", b"text/event-stream; charset=utf-8"))
        await send({"type": "http.response.start", "status": 200, "headers": raw})
        if reply.stream_error is not None and reply.break_off_at is None:
            await _event(send, {"error": reply.stream_error})
        else:
            for first in chunks.first():
                await _event(send, first)
            async for number, token in self._tokens(reply, sent):
                await _event(send, chunks.delta(number, token))
            if reply.stream_error is not None:
                await _event(send, {"error": reply.stream_error})
                await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})
                return
            if reply.break_off_at is not None:
                await send({"type": "http.response.body", "body": b""})
                return
            for last in chunks.last(reply):
                await _event(send, last)
            options = seen.body.get("stream_options")
            if isinstance(options, dict) and options.get("include_usage"):
                await _event(send, chunks.usage(reply))
        await send({"type": "http.response.body", "body": b"" if chunks.named else b"data: [DONE]\n\n"})

    async def _tokens(self, reply: Reply, sent: _Progress) -> AsyncIterator[tuple[int, str]]:
        for number, token in enumerate(reply.tokens):
            if reply.gate is not None and number == reply.gate_at:
                await reply.gate.passed()
            if reply.pause:
                await asyncio.sleep(reply.pause)
            if number == reply.die_at:
                sent.died = True
                self._die()
                await asyncio.sleep(60)
            if number == reply.break_off_at:
                return
            sent.tokens += 1
            yield number, token


@dataclass(slots=True)
class _Progress:
    tokens: int = 0
    died: bool = False


class _Chunks:
    """The bodies that vLLM sends for one request. `named`: its events have names, and no [DONE] at their end."""

    def __init__(self, seen: Seen) -> None:
        self._chat = seen.path.endswith("/chat/completions")
        self._kind = seen.path.rpartition("/v1/")[2].lstrip("/")
        self.named = self._kind in ("messages", "responses")
        self._model = seen.body["model"]
        self._id = f"chatcmpl-{seen.headers[wire.REQUEST_ID]}"
        self._number = -1

    def whole(self, reply: Reply) -> dict[str, Any]:
        text = "".join(reply.tokens)
        if self._kind == "messages":
            return self._message([{"type": "text", "text": text}], reply)
        if self._kind == "responses":
            return self._response("completed", text)
        if self._kind == "tokenize":
            return {"count": len(reply.tokens), "max_model_len": 512, "tokens": [*range(len(reply.tokens))]}
        if self._kind == "detokenize":
            return {"prompt": text}
        if self._kind == "messages/count_tokens":
            return {"input_tokens": reply.input_tokens}
        part: dict[str, Any] = {"message": {"role": "assistant", "content": text}} if self._chat else {"text": text}
        kind = "chat.completion" if self._chat else "text_completion"
        return self._frame(kind, [{"index": 0, "finish_reason": "stop", **part}], usage=_usage(reply))

    def first(self) -> list[dict[str, Any]]:
        if self._kind == "messages":
            return [
                {"type": "message_start", "message": self._message([], Reply(tokens=()))},
                {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            ]
        if self._kind == "responses":
            return [self._numbered("response.created", response=self._response("in_progress", ""))]
        return []

    def delta(self, number: int, token: str) -> dict[str, Any]:
        if self._kind == "messages":
            return {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": token}}
        if self._kind == "responses":
            return self._numbered(
                "response.output_text.delta", delta=token, item_id="msg_1", output_index=0, content_index=0, logprobs=[]
            )
        part: dict[str, Any] = {"text": token}
        if self._chat:
            part = {"delta": {"content": token, **({"role": "assistant"} if number == 0 else {})}}
        return self._frame(self._stream_kind, [{"index": 0, "finish_reason": None, **part}])

    def last(self, reply: Reply) -> list[dict[str, Any]]:
        if self._kind == "messages":
            return [
                {"type": "content_block_stop", "index": 0},
                {
                    "type": "message_delta",
                    "delta": {"stop_reason": "end_turn"},
                    "usage": {"input_tokens": reply.input_tokens, "output_tokens": len(reply.tokens)},
                },
                {"type": "message_stop"},
            ]
        if self._kind == "responses":
            return [self._numbered("response.completed", response=self._response("completed", "".join(reply.tokens)))]
        part: dict[str, Any] = {"delta": {}} if self._chat else {"text": ""}
        return [self._frame(self._stream_kind, [{"index": 0, "finish_reason": "stop", **part}])]

    def usage(self, reply: Reply) -> dict[str, Any]:
        return self._frame(self._stream_kind, [], usage=_usage(reply))

    @property
    def _stream_kind(self) -> str:
        return "chat.completion.chunk" if self._chat else "text_completion"

    def _numbered(self, kind: str, **more: Any) -> dict[str, Any]:
        self._number += 1
        return {"type": kind, "sequence_number": self._number, **more}

    def _message(self, content: list[dict[str, Any]], reply: Reply) -> dict[str, Any]:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "content": content,
            "model": self._model,
            "stop_reason": "end_turn" if content else None,
            "usage": {"input_tokens": reply.input_tokens, "output_tokens": len(reply.tokens)},
        }

    def _response(self, status: str, text: str) -> dict[str, Any]:
        content = {"type": "output_text", "text": text, "annotations": []}
        message = {"id": "msg_1", "type": "message", "role": "assistant", "status": status, "content": [content]}
        return {
            "id": self._id.replace("chatcmpl-", "resp_"),
            "object": "response",
            "created_at": 1,
            "model": self._model,
            "status": status,
            "output": [message] if text else [],
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
        }

    def _frame(self, kind: str, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": 1, "model": self._model, "choices": choices, **more}


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.contextmanager
def running_engine(socket: Path, *, token: str, base: dict[str, str]) -> Iterator[FakeEngine]:
    """A started fake engine in a thread of its own; `base` is {"name", "digest"}."""
    with LoopThread() as thread:
        engine = FakeEngine(socket, thread, token, base)
        engine.start()
        try:
            yield engine
        finally:
            thread.run(engine._stop())


def _usage(reply: Reply) -> dict[str, int]:
    made = len(reply.tokens)
    return {"prompt_tokens": reply.input_tokens, "completion_tokens": made, "total_tokens": reply.input_tokens + made}


async def _until_disconnect(work: Any, receive: Receive) -> bool:
    """As vLLM's `with_cancellation`: False if the client hung up first."""
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_disconnect(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
            return True
        return False
    finally:
        for task in (working, leaving):
            task.cancel()


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _body(receive: Receive) -> dict[str, Any]:
    data, more = b"", True
    while more:
        message: Message = await receive()
        data += message.get("body", b"")
        more = message.get("more_body", False)
    value: dict[str, Any] = json.loads(data)
    return value


async def _event(send: Send, value: Any) -> None:
    event = b"data: " + json.dumps(value).encode() + b"\n\n"
    if "type" in value:  # as the Responses and the Messages API have it
        event = b"event: " + value["type"].encode() + b"\n" + event
    await send({"type": "http.response.body", "body": event, "more_body": True})


async def _json(send: Send, status: int, value: Any, headers: tuple[tuple[str, str], ...] = ()) -> None:
    await _answer(send, status, "application/json", json.dumps(value).encode(), headers)


async def _answer(
    send: Send, status: int, content_type: str, body: bytes, headers: tuple[tuple[str, str], ...] = ()
) -> None:
    raw = [(name.encode(), value.encode()) for name, value in headers]
    raw += [(b"content-type", content_type.encode()), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
