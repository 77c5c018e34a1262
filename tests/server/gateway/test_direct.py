"""The busiest routes are answered past the framework; whoever asks notices nothing of it.

A path with a query string goes through the framework to the same route: the plain way that the direct one is held to.
"""

from __future__ import annotations

import gc
import json
import re
import socket
from typing import Any

import httpx
import pytest

from loradock_server.gateway import engine_line
from tests.fakes.engine import Reply
from tests.server.gateway.conftest import Gateway

PLAIN, DIRECT = "/v1/completions?by=the-framework", "/v1/completions"
_ID = re.compile(rb"chatcmpl-[0-9a-f]+")
# What no two answers have in common.
_OF_ONE_ANSWER = {"date", "x-request-id", "x-ratelimit-reset-requests", "x-ratelimit-reset-tokens"}


def asked(gateway: Gateway, path: str, body: Any, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
    gateway.engine.enqueue(Reply())
    with httpx.Client(trust_env=False, timeout=60) as client:
        answer = client.post(f"{gateway.url}{path}", content=body, headers=headers)
    said = {name: value for name, value in answer.headers.items() if name not in _OF_ONE_ANSWER}
    assert answer.headers["x-request-id"]
    return answer.status_code, said, _ID.sub(b"chatcmpl-0", answer.content)


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b'{"model": "tiny", "prompt": "x"}', {}, 200),
        (b'{"model": "tiny", "prompt": "x", "stream": true}', {}, 200),
        (b'{"model": "tiny", "prompt": "x"}', {"connection": "close"}, 200),
        (b'{"model": "tiny", "prompt": "x"}', {"x-request-id": "mine"}, 200),
        (b'{"model": "nobody", "prompt": "x"}', {}, 404),
        (b'{"model": ', {}, 400),
        (b"", {}, 400),
        (b"{}", {"content-type": "text/plain"}, 415),
        (b'{"model": "tiny", "prompt": "x"}', {"authorization": "Bearer wrong"}, 401),
        (b'{"model": "tiny", "prompt": "%s"}' % (b"x" * 200_000), {}, 413),
    ],
)
def test_an_answer_is_the_same_directly_and_through_the_framework(
    start: Any, body: bytes, headers: dict[str, str], status: int
) -> None:
    with start(max_body_bytes=100_000) as gateway:
        sent = {"authorization": f"Bearer {gateway.key}", "content-type": "application/json", **headers}
        plain, direct = asked(gateway, PLAIN, body, sent), asked(gateway, DIRECT, body, sent)
    assert direct[0] == status
    assert {**direct[1], "content-length": ""} == {**plain[1], "content-length": ""}
    assert (direct[0], direct[2]) == (plain[0], plain[2])


def head(gateway: Gateway, size: int, *more: str, version: str = "1.1") -> bytes:
    lines = [
        f"POST {DIRECT} HTTP/{version}",
        "host: gateway",
        f"authorization: Bearer {gateway.key}",
        f"content-length: {size}",
        *more,
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def body(prompt: str) -> bytes:
    return json.dumps({"model": "tiny", "prompt": prompt}).encode()


def connected(gateway: Gateway) -> socket.socket:
    url = httpx.URL(gateway.url)
    return socket.create_connection((url.host, url.port or 80), timeout=60)


def until(client: socket.socket, ending: bytes, count: int = 1) -> bytes:
    said = b""
    while said.count(ending) < count:
        part = client.recv(1 << 16)
        assert part, said
        said += part
    return said


def test_an_answer_is_one_write_and_its_connection_takes_the_next_request(gateway: Gateway) -> None:
    sent = body("x")
    with connected(gateway) as client:
        for _ in range(3):
            gateway.engine.enqueue(Reply())
            client.sendall(head(gateway, len(sent)) + sent)
            answer = client.recv(1 << 16)  # head and body at once
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
            assert json.loads(answer.partition(b"\r\n\r\n")[2])["object"] == "text_completion"


def test_requests_that_follow_each_other_unasked_are_answered_in_their_order(gateway: Gateway) -> None:
    bodies = [body("x"), b'{"model": "nobody"}', body("y")]
    gateway.engine.enqueue(Reply(), Reply())
    with connected(gateway) as client:
        client.sendall(b"".join(head(gateway, len(sent)) + sent for sent in bodies))
        said = until(client, b"HTTP/1.1 ", 3)
    assert [part[:3] for part in said.split(b"HTTP/1.1 ")[1:]] == [b"200", b"404", b"200"]


def test_a_body_that_comes_in_parts_or_after_a_hundred_is_read_whole(gateway: Gateway) -> None:
    sent = body("x" * 100_000)
    gateway.engine.enqueue(Reply(), Reply())
    with connected(gateway) as client:
        client.sendall(head(gateway, len(sent)) + sent[:1000])
        client.sendall(sent[1000:])
        assert until(client, b"\r\n\r\n").startswith(b"HTTP/1.1 200 ")
    with connected(gateway) as client:
        client.sendall(head(gateway, len(sent), "expect: 100-continue"))
        assert until(client, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(sent)
        assert until(client, b"\r\n\r\n").startswith(b"HTTP/1.1 200 ")


def test_an_old_client_gets_its_answer_and_the_end_of_the_connection(gateway: Gateway) -> None:
    sent = body("x")
    gateway.engine.enqueue(Reply())
    with connected(gateway) as client:
        client.sendall(head(gateway, len(sent), version="1.0") + sent)
        answer = b"".join(iter(lambda: client.recv(1 << 16), b""))
    assert b"connection: close\r\n" in answer
    assert answer.endswith(b"}")


def test_a_request_leaves_nothing_to_the_collector_of_cycles(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """Objects that keep each other alive wait for the collector, which took a twentieth of a busy gateway's time."""
    # An idle connection that is closed leaves itself; on a slow machine one could become idle meanwhile.
    monkeypatch.setattr(engine_line, "KEEP_ALIVE_SECONDS", 3600.0)
    gc.collect()
    gc.disable()
    try:
        for stream in (False, True) * 10:
            gateway.engine.enqueue(Reply())
            asked = {"model": "tiny", "prompt": "x", "stream": stream}
            assert gateway.http.post(DIRECT, json=asked).status_code == 200
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        found = {type(one).__qualname__ for one in gc.garbage if type(one).__module__.startswith("loradock_server.")}
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert found == set()
