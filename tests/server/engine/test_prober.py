"""Probing over a socket: what counts as a sign of life."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from tempfile import TemporaryDirectory

import pytest

from loradock_server.engine.prober import answers


@pytest.fixture
def folder() -> Iterator[str]:
    with TemporaryDirectory(prefix="loradock-") as path:  # pytest's own folders are too long for a socket
        yield path


async def probe(reply: bytes | None, folder: str, *, within: float = 60, tcp: bool = False) -> bool:
    """Probe a server that says this; None: it accepts and says nothing."""

    answered = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if reply is not None:
            writer.write(reply)
        if reply != b"":
            await reader.read()  # until the prober hangs up
        with contextlib.suppress(ConnectionError):
            writer.close()
            await writer.wait_closed()
        answered.set()

    if tcp:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    else:
        server = await asyncio.start_unix_server(answer, f"{folder}/s")
        address = f"unix:{folder}/s"
    async with server:
        alive = await answers(address, within)
        await answered.wait()
        return alive


@pytest.mark.parametrize(
    ("reply", "alive"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", True),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", False),
        (b"", False),
        (b"200", False),
        (b"x" * 200_000, False),
        (None, False),
    ],
    ids=["200", "503", "closed", "no http", "endless line", "silence"],
)
def test_only_a_200_in_time_is_a_sign_of_life(reply: bytes | None, alive: bool, folder: str) -> None:
    began = time.monotonic()
    # A slow machine may be late with a sign of life; where none comes, nobody waits for longer than was said.
    assert asyncio.run(probe(reply, folder, within=60 if alive else 0.3)) is alive
    assert time.monotonic() - began < 30


def test_an_engine_on_a_port_is_probed_too(folder: str) -> None:
    assert asyncio.run(probe(b"HTTP/1.1 200 OK\r\n\r\n", folder, tcp=True))


@pytest.mark.parametrize("address", ["unix:/nowhere/s", "http://127.0.0.1:1", "http://[::1]:1"])
def test_nobody_there_is_no_sign_of_life(address: str) -> None:
    assert not asyncio.run(answers(address, 1))
