"""Clients that vanish at every phase, send halves, read nothing, or shape their requests so that two readers disagree.

On raw sockets. Whatever they do, each other client is answered, nothing of theirs reaches the engine that should not,
and afterwards the gateway holds nothing.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from loradock_adapters.base_model import BaseModel
from tests.faults.conftest import TIMEOUTS
from tests.faults.world import KEY, Engine, Gateway, eventually, running_gateway

CLIENT_SECONDS = TIMEOUTS["client_timeout"]
SPARE_SECONDS = 20
EACH = 10


def head(length: int | None, *more: str, path: str = "/v1/completions") -> bytes:
    lines = [f"POST {path} HTTP/1.1", "host: gateway", f"authorization: Bearer {KEY}", "content-type: application/json"]
    if length is not None:
        lines.append(f"content-length: {length}")
    return "\r\n".join([*lines, *more, "", ""]).encode()


def body(behaviour: str, *, stream: bool = False) -> bytes:
    return json.dumps({"model": "tiny", "prompt": behaviour, "stream": stream}).encode()


def request(behaviour: str, *more: str, stream: bool = False) -> bytes:
    sent = body(behaviour, stream=stream)
    return head(len(sent), *more) + sent


@contextlib.contextmanager
def connected(gateway: Gateway) -> Iterator[socket.socket]:
    with socket.create_connection(gateway.address, timeout=CLIENT_SECONDS + SPARE_SECONDS) as client:
        yield client


def read_all(client: socket.socket) -> bytes:
    """Until the gateway hangs up."""
    said = b""
    with contextlib.suppress(ConnectionResetError):
        while part := client.recv(1 << 16):
            said += part
    return said


def error_of(said: bytes) -> tuple[int, str | None, str]:
    """Status, code and message of one whole answer."""
    top, _, content = said.partition(b"\r\n\r\n")
    assert b"\r\ncontent-type: application/json\r\n" in top.lower(), said[:2000]
    error = json.loads(content)["error"]
    return int(said.split(b" ", 2)[1]), error["code"], error["message"]


def goes_well(gateway: Gateway) -> None:
    with gateway.http() as http:
        assert http.post("/v1/completions", json={"model": "tiny", "prompt": "good"}).status_code == 200


@pytest.fixture
def good(gateway: Gateway) -> Iterator[dict[str, int]]:
    """What the gateway holds when nothing runs; after the test it must hold no more."""
    eventually(gateway.ready)
    gateway.require_quiet(before={"in_flight": 0, "permits": 0, "clients": 0, "upstream": 2})
    before = {**gateway.held(), "upstream": 2}  # the usage feed, and the looks at its state
    yield before
    goes_well(gateway)
    gateway.require_quiet(before)
    assert gateway.ready()


PHASES: dict[str, bytes] = {
    "before it says anything": b"",
    "within the request line": b"POST /v1/comp",
    "within a header": head(None)[:-20],
    "before the body": head(500),
    "within the body": head(500) + b'{"model": "ti',
    "within a chunk of the body": head(None, "transfer-encoding: chunked") + b'ff\r\n{"model"',
    "while it waits": request("says_nothing"),
    "while it waits for a stream": request("says_nothing", stream=True),
    "while its answer comes": request("dribbles"),
    "within its stream": request("dribbles", stream=True),
    "with a second request half sent": request("dribbles", stream=True) + head(500)[:40],
}


def test_clients_that_vanish_leave_nothing_behind(base: BaseModel, engine: Engine, tmp_path: Path) -> None:
    # With the timeouts as they come, minutes all of them: it is the clients' going that ends everything here.
    with running_gateway(tmp_path / "home", base, engine) as gateway:
        before = {**gateway.held(), "upstream": 2}
        for reset in (False, True):
            with ExitStack() as clients:
                all_of_them = []
                for sent in list(PHASES.values()) * EACH:
                    client = clients.enter_context(connected(gateway))
                    client.sendall(sent)
                    all_of_them.append(client)
                eventually(lambda: gateway.held()["in_flight"] == 8 * EACH)
                eventually(lambda: gateway.held()["permits"] == 5 * EACH)  # those whose whole request is here
                for client in all_of_them:
                    if reset:
                        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            gateway.require_quiet(before)
            goes_well(gateway)


def test_clients_that_send_halves_or_nothing_are_told_so_in_time(gateway: Gateway, good: dict[str, int]) -> None:
    halves = ("within the request line", "within a header", "within the body", "before the body")
    with ExitStack() as clients:
        began = time.monotonic()
        waiting = [clients.enter_context(connected(gateway)) for _ in halves]
        for client, phase in zip(waiting, halves, strict=True):
            client.sendall(PHASES[phase])
        silent, once = (clients.enter_context(connected(gateway)) for _ in range(2))
        once.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        said = b""
        while b'"ok"}' not in said:
            said += once.recv(4096)
        once.sendall(b"\r\n")  # ends the idle time of a kept connection without beginning a request
        dribbling = [clients.enter_context(connected(gateway)) for _ in range(2)]
        dribbling[0].sendall(b"GET / HTTP/1.1\r\nx-a: ")
        dribbling[1].sendall(head(500))
        while time.monotonic() - began < CLIENT_SECONDS - 0.5:
            for client in dribbling:
                client.sendall(b" ")
            time.sleep(0.2)
        for client in [*waiting, *dribbling]:
            status, code, message = error_of(read_all(client))
            assert (status, code) == (408, "request_timeout")
            assert f"within {CLIENT_SECONDS} s (LORADOCK_CLIENT_TIMEOUT)" in message
        assert read_all(silent) == b""
        assert read_all(once) == b""
        assert CLIENT_SECONDS * 0.9 < time.monotonic() - began < CLIENT_SECONDS + SPARE_SECONDS


def test_clients_that_read_nothing_are_cut_and_cost_neither_memory_nor_others(
    gateway: Gateway, good: dict[str, int]
) -> None:
    process = psutil.Process(gateway.process.pid)
    memory = process.memory_info().rss
    with ExitStack() as clients:
        for _ in range(20):
            client = clients.enter_context(connected(gateway))
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.sendall(request("floods", stream=True))
        eventually(lambda: gateway.held()["in_flight"] == 20)
        goes_well(gateway)
        # They are cut while they still hold on.
        gateway.require_quiet({what: good[what] for what in ("in_flight", "upstream")})
    assert process.memory_info().rss - memory < 60 << 20


def test_pipelined_requests_are_answered_in_their_order(gateway: Gateway, good: dict[str, int]) -> None:
    with connected(gateway) as client:
        client.sendall(
            request("good") + head(2, path="/v1/nothing") + b"{}" + request("good", "connection: close", stream=True)
        )
        said = read_all(client)
    statuses = [part.split(b" ", 1)[0] for part in said.split(b"HTTP/1.1 ")[1:]]
    assert statuses == [b"200", b"404", b"200"]
    assert said.endswith(b"0\r\n\r\n")


SMUGGLED = request("good")
SMUGGLING: dict[str, bytes] = {
    "a length and chunks": head(4, "transfer-encoding: chunked") + b"0\r\n\r\n" + SMUGGLED,
    "two lengths": head(4, "content-length: 900") + b"{ }\n" + SMUGGLED,
    "a length with a sign": head(None, "content-length: +4") + b"{ }\n" + SMUGGLED,
    "a length in words": head(None, "content-length: 4, 4") + b"{ }\n" + SMUGGLED,
    "a length without a number": head(None, "content-length: ") + b"{ }\n" + SMUGGLED,
    "a space before the colon": head(None, "content-length : 4") + b"{ }\n" + SMUGGLED,
    "a folded header": head(None, "x-a: b", " transfer-encoding: chunked") + b"0\r\n\r\n" + SMUGGLED,
    "an unknown coding": head(None, "transfer-encoding: xchunked") + b"0\r\n\r\n" + SMUGGLED,
    "chunked that is not last": head(None, "transfer-encoding: chunked, identity") + b"0\r\n\r\n" + SMUGGLED,
    "a chunk size with a sign": head(None, "transfer-encoding: chunked") + b"+4\r\n{ }\n\r\n0\r\n\r\n" + SMUGGLED,
    "a chunk that ends late": head(None, "transfer-encoding: chunked") + b"2\r\n{ }\n\r\n0\r\n\r\n" + SMUGGLED,
    "a NUL in a header": head(None, "x-a: b\0c") + SMUGGLED,
    "a bare line feed in a header": head(None, "x-a: b\nx-b: c\0d") + SMUGGLED,
    "another protocol": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SMUGGLED,
    "no protocol": b"\x16\x03\x01\x00\xa5\x01\x00" + SMUGGLED,
}


@pytest.mark.parametrize("shape", SMUGGLING)
def test_requests_that_two_readers_would_read_differently_are_refused(
    gateway: Gateway, good: dict[str, int], shape: str
) -> None:
    with connected(gateway) as client:
        client.sendall(SMUGGLING[shape])
        said = read_all(client)
    assert len(re.findall(rb"HTTP/1\.1 \d", said)) == 1, (
        said
    )  # what lies behind is not answered: it was not read as a request
    status, _, message = error_of(said)
    assert status == 400
    assert message


@pytest.mark.parametrize(
    "sent",
    [
        head(2, *[f"x-filler-{number}: {'x' * 40}" for number in range(3000)]) + b"{}",
        head(2, "x-filler: " + "x" * 200_000) + b"{}",
        b"POST /" + b"x" * 200_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
    ],
    ids=["many", "long", "path"],
)
def test_headers_have_a_limit(gateway: Gateway, good: dict[str, int], sent: bytes) -> None:
    with connected(gateway) as client:
        with contextlib.suppress(ConnectionError):
            client.sendall(sent)
        status, code, message = error_of(read_all(client))
    assert (status, code) == (431, "too_large")
    assert "65536" in message


def test_a_header_without_end_is_not_kept(gateway: Gateway, good: dict[str, int]) -> None:
    memory = psutil.Process(gateway.process.pid).memory_info().rss
    with connected(gateway) as client:
        client.sendall(b"GET / HTTP/1.1\r\nx-filler: ")
        with contextlib.suppress(ConnectionError):
            for _ in range(2000):
                client.sendall(b"x" * 50_000)
        read_all(client)  # a 431, if it is not lost in the reset that follows it
    assert psutil.Process(gateway.process.pid).memory_info().rss - memory < 20 << 20


def test_garbage_after_the_request_does_not_reach_into_its_answer(gateway: Gateway, good: dict[str, int]) -> None:
    with connected(gateway) as client:
        client.sendall(request("dribbles", stream=True))
        said = client.recv(4096)
        assert said.startswith(b"HTTP/1.1 200 ")
        client.sendall(b"\x00\x01garbage\r\n\r\n")
        said += read_all(client)
    assert len(re.findall(rb"HTTP/1\.1 \d", said)) == 1
    assert not said.endswith(b"0\r\n\r\n")  # cut, and not ended as if it were whole
