"""A client that does not read makes the engine wait for it, and nobody else; nothing piles up in the gateway."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from typing import Any

from tests.fakes.engine import Reply
from tests.server.gateway.conftest import Gateway, eventually

TOKEN_BYTES, TOKENS = 50_000, 1000
# Far more than the kernel holds for two sockets, and the gateway on both of its sides.
MOST_IN_BETWEEN = 20 << 20


class Counted(tuple[str, ...]):
    """Tokens that tell how many of them the engine has begun to send."""

    def __init__(self, _: Any) -> None:
        self.begun = 0

    def __iter__(self) -> Iterator[str]:
        for token in super().__iter__():
            self.begun += 1
            yield token


def test_a_client_that_does_not_read_stops_the_engine_and_nobody_else(gateway: Gateway) -> None:
    tokens = Counted(["x" * TOKEN_BYTES] * TOKENS)
    gateway.engine.enqueue(Reply(tokens=tokens))
    host, port = gateway.http.base_url.host, gateway.http.base_url.port
    body = json.dumps({"model": "tiny", "prompt": "x", "stream": True}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\nconnection: close\r\n"
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        slow.connect((host, port))
        slow.settimeout(60)
        slow.sendall(f"{head}authorization: Bearer {gateway.key}\r\n\r\n".encode() + body)
        eventually(lambda: tokens.begun > 0)
        eventually(lambda: _stands_still(tokens))
        assert tokens.begun * TOKEN_BYTES < MOST_IN_BETWEEN
        for _ in range(5):
            assert gateway.http.post("/v1/completions", json={"model": "tiny", "prompt": "x"}).status_code == 200
        assert tokens.begun * TOKEN_BYTES < MOST_IN_BETWEEN
        answer = bytearray()
        while part := slow.recv(1 << 20):
            answer += part
    assert tokens.begun == TOKENS
    assert len(answer) > TOKENS * TOKEN_BYTES
    assert b"data: [DONE]" in answer[-100:]


def _stands_still(tokens: Counted) -> bool:
    before = tokens.begun
    time.sleep(0.5)
    return tokens.begun == before
