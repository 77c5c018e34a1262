"""A fake engine that is fast enough not to be what is measured: `python -m loadtest.gateway.fake_engine`.

One process, a bare asyncio protocol on uvloop, the same answers for everybody: a canned chat completion, or a stream of
32 chunks, each sent in a turn of the loop of its own, as tokens come. It also speaks what our gateway needs of an
engine (state, pins, and a usage record for every request), and what vllm-router asks of its workers. It understands
only requests with a Content-Length, checks no token and has no model.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import cast
from urllib.parse import parse_qs, urlsplit

import uvloop

from loradock_server import wire
from loradock_server.engine.usage import GATHER_SECONDS

CHUNKS = 32
MODEL = "bench"
KEEP_ALIVE_SECONDS = 5.0

_ANSWER = {
    "id": "chatcmpl-0",
    "object": "chat.completion",
    "created": 1,
    "model": MODEL,
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "The quick brown fox jumps over the lazy dog. " * 4},
            "finish_reason": "stop",
            "logprobs": None,
        }
    ],
    "usage": {"prompt_tokens": 20, "completion_tokens": 40, "total_tokens": 60},
}


def _response(body: bytes, content_type: str = "application/json") -> bytes:
    return f"HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


def _chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _delta(number: int) -> bytes:
    delta = {"content": f" word{number}"} if number else {"role": "assistant", "content": "A"}
    chunk = {
        "id": "chatcmpl-0",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": MODEL,
        "choices": [{"index": 0, "delta": delta, "finish_reason": None}],
    }
    return _chunked(b"data: " + json.dumps(chunk).encode() + b"\n\n")


_WHOLE = _response(json.dumps(_ANSWER).encode())
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
)
_DELTAS = tuple(_delta(number) for number in range(CHUNKS - 1))
_LAST = _chunked(b"data: [DONE]\n\n") + b"0\r\n\r\n"
_MODELS = _response(json.dumps({"object": "list", "data": [{"id": MODEL, "object": "model"}]}).encode())


class Engine:
    """What all connections share. With `idle`, a stream gets its first chunk and then nothing. Each request keeps the
    processor busy for `work_seconds` first.
    """

    def __init__(self, base_digest: str, *, idle: bool, work_seconds: float) -> None:
        self.idle = idle
        self.work_seconds = work_seconds
        self.generation = uuid.uuid4().hex
        state = {
            "ready": True,
            "generation": self.generation,
            "restarts": 0,
            "base": {"name": MODEL, "digest": base_digest},
            "max_model_len": 2048,
            "adapters": [],
            "pins": [],
            "memory": None,
        }
        self.state = _response(json.dumps(state).encode())
        self.followers: dict[str, Connection] = {}
        self._sequence = 0
        self._pending: dict[str, list[bytes]] = {}

    def publish(self, gateway: str, request_id: str, adapter: str | None, digest: str | None) -> None:
        """One record for the gateway that asked; some of them leave together, as the real engine sends them."""
        self._sequence += 1
        record = {
            "seq": self._sequence,
            "request_id": request_id,
            "adapter": adapter,
            "digest": digest,
            "input_tokens": 20,
            "output_tokens": 40,
            "cached_tokens": 0,
            "finish_reason": "stop",
            "queue_seconds": 0.0001,
            "time_to_first_token_seconds": 0.0002,
            "residency": "resident",
        }
        if not self._pending:
            asyncio.get_running_loop().call_later(GATHER_SECONDS, self._flush)
        self._pending.setdefault(gateway, []).append(json.dumps(record).encode() + b"\n")

    def work(self) -> None:
        """Be as slow as a server that does more than this one."""
        until = time.perf_counter() + self.work_seconds
        while time.perf_counter() < until:
            pass

    def keep_alive(self) -> None:
        """An empty line to every follower now and then, as the engine's feed does it."""
        for follower in self.followers.values():
            follower.write(_chunked(b"\n"))
        asyncio.get_running_loop().call_later(KEEP_ALIVE_SECONDS, self.keep_alive)

    def _flush(self) -> None:
        pending, self._pending = self._pending, {}
        for gateway, lines in pending.items():
            if gateway in self.followers:
                self.followers[gateway].write(_chunked(b"".join(lines)))


class Connection(asyncio.Protocol):
    """One HTTP connection, one request after the other."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._buffer = b""
        self._loop = asyncio.get_running_loop()
        self.write: Callable[[bytes], None] = _nowhere

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.write = cast(asyncio.Transport, transport).write  # uvloop's is none by its class

    def connection_lost(self, error: Exception | None) -> None:
        self.write = _nowhere
        for gateway, follower in list(self._engine.followers.items()):
            if follower is self:
                del self._engine.followers[gateway]

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end]
            lines = head.decode("latin-1").split("\r\n")
            headers = {key.lower(): value.strip() for key, _, value in (line.partition(":") for line in lines[1:])}
            size = int(headers.get("content-length", 0))
            if len(self._buffer) < end + 4 + size:
                return
            body = self._buffer[end + 4 : end + 4 + size]
            self._buffer = self._buffer[end + 4 + size :]
            self._answer(lines[0].split(" ")[1], headers, body)

    def _answer(self, target: str, headers: dict[str, str], body: bytes) -> None:
        if target.startswith("/v1/") and target != "/v1/models":
            self._engine.work()
            stream = b'"stream":true' in body or b'"stream": true' in body
            if stream:
                self.write(_STREAM_HEAD)
                self._send_chunk(0, headers)
                return
            self.write(_WHOLE)
            self._publish(headers)
        elif target == wire.STATE:
            self.write(self._engine.state)
        elif target == wire.PINS:
            self.write(_response(b'{"pins": 0}'))
        elif target == wire.METRICS:
            self.write(_response(b"", "text/plain"))
        elif target.startswith(wire.USAGE):
            self.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\n%b: %b\r\ntransfer-encoding: chunked\r\n\r\n"
                % (wire.GENERATION.encode(), self._engine.generation.encode())
            )
            self._engine.followers[parse_qs(urlsplit(target).query)["gateway"][0]] = self
        else:
            self.write(_MODELS)

    def _send_chunk(self, number: int, headers: dict[str, str]) -> None:
        if number < len(_DELTAS):
            self.write(_DELTAS[number])
            if not self._engine.idle:
                self._loop.call_soon(self._send_chunk, number + 1, headers)
            return
        self.write(_LAST)
        self._publish(headers)

    def _publish(self, headers: dict[str, str]) -> None:
        gateway = headers.get(wire.GATEWAY)
        if gateway is not None:
            adapter, digest = headers.get(wire.ADAPTER), headers.get(wire.DIGEST)
            self._engine.publish(gateway, headers[wire.REQUEST_ID], adapter, digest)


def _nowhere(data: bytes) -> None:
    pass


async def serve(engine: Engine, path: Path, port: int) -> None:
    """On a unix socket for our gateway and on a local port for everybody else, until cancelled."""
    loop = asyncio.get_running_loop()
    listener = socket.create_server(("127.0.0.1", port), backlog=2048)
    await loop.create_unix_server(lambda: Connection(engine), str(path), backlog=2048)
    await loop.create_server(lambda: Connection(engine), sock=listener)
    engine.keep_alive()
    await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--socket", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--base-digest", default="")
    parser.add_argument("--idle", action="store_true", help="streams stop after their first chunk")
    parser.add_argument("--work", type=float, default=0, metavar="US", help="microseconds of work for each request")
    options = parser.parse_args()

    async def run() -> None:
        await serve(
            Engine(options.base_digest, idle=options.idle, work_seconds=options.work * 1e-6),
            options.socket,
            options.port,
        )

    uvloop.run(run())


if __name__ == "__main__":
    main()
