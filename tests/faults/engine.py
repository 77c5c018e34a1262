"""An engine that misbehaves on its socket, byte by byte, as the prompt of each request asks it to.

    python -m tests.faults.engine PORT BASE_NAME BASE_DIGEST     (port 0: any; it prints the one it has)

Faithful enough because what it fakes is what a broken engine, proxy or network does to a socket, and the rest of it
(state, usage feed, good answers) is what the gateway needs to take it for an engine. A process of its own, so that it
can be killed and stopped for real.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import socket
import struct
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from loradock_server import wire

OK = b"HTTP/1.1 200 OK\r\n"
JSON = b"content-type: application/json\r\n"
STREAM = b"content-type: text/event-stream\r\ntransfer-encoding: chunked\r\nconnection: close\r\n"
DONE = b"data: [DONE]\n\n"
ANSWER = json.dumps({"id": "c", "object": "text_completion", "choices": [{"index": 0, "text": "Hello"}]}).encode()


@dataclass(slots=True, eq=False)
class Line:
    """One connection, with the request on it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    stream: bool = False

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def chunk(self, data: bytes) -> None:
        await self.send(b"%x\r\n%s\r\n" % (len(data), data))

    async def event(self, text: str = "Hello") -> None:
        chunk = {"id": "c", "object": "text_completion", "choices": [{"index": 0, "text": text}]}
        await self.chunk(b"data: " + json.dumps(chunk).encode() + b"\n\n")

    async def begin(self) -> None:
        """A good start: the head, and of a stream the first event, else half of the answer."""
        if self.stream:
            await self.send(OK + STREAM + b"\r\n")
            await self.event()
        else:
            await self.send(OK + JSON + b"content-length: %d\r\n\r\n" % len(ANSWER) + ANSWER[:20])

    async def finish(self) -> None:
        """The end of what `begin` began."""
        await self.send(b"%x\r\n%b\r\n0\r\n\r\n" % (len(DONE), DONE) if self.stream else ANSWER[20:])

    async def whole(self, status: bytes, headers: bytes, body: bytes) -> None:
        length = b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        await self.send(b"HTTP/1.1 " + status + b"\r\n" + headers + length + body)

    def reset(self) -> None:
        """RST instead of FIN."""
        sock: socket.socket = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def silence(self) -> None:
        """Until the other side goes away."""
        while await self.reader.read(65536):
            pass


Behaviour = Callable[[Line], Awaitable[None]]


async def good(line: Line) -> None:
    if line.stream:
        await line.begin()
        await line.chunk(DONE)
        await line.send(b"0\r\n\r\n")
    else:
        await line.whole(b"200 OK", JSON, ANSWER)


async def closes_at_once(line: Line) -> None:
    line.writer.close()


async def resets_at_once(line: Line) -> None:
    line.reset()


async def resets_in_the_middle(line: Line) -> None:
    await line.begin()
    line.reset()


async def ends_in_the_middle(line: Line) -> None:
    await line.begin()


async def ends_within_a_chunk(line: Line) -> None:
    await line.send(OK + (STREAM if line.stream else JSON + b"transfer-encoding: chunked\r\n") + b"\r\n")
    await line.event()
    await line.send(b'ff\r\ndata: {"choices": [')


async def sends_a_bad_chunk_size(line: Line) -> None:
    await line.send(OK + (STREAM if line.stream else JSON + b"transfer-encoding: chunked\r\n") + b"\r\n")
    await line.event()
    await asyncio.sleep(2)  # until a busy gateway has read what is good of it
    await line.send(b"zzzz\r\nwhat\r\n")
    await line.silence()


async def says_nothing(line: Line) -> None:
    await line.silence()


async def stops_in_the_middle(line: Line) -> None:
    await line.begin()
    await line.silence()


async def dribbles(line: Line) -> None:
    await line.send(OK + (STREAM if line.stream else JSON + b"transfer-encoding: chunked\r\n") + b"\r\n")
    for number in itertools.count():
        if line.stream:
            await line.event(str(number))
        else:
            await line.chunk(b" ")
        await asyncio.sleep(0.2)


async def takes_its_time(line: Line) -> None:
    await line.begin()
    for _ in range(10):
        await asyncio.sleep(0.2)
        if line.stream:
            await line.event("word")
    await line.finish()


WORD = asyncio.Event()


async def waits_for_the_word(line: Line) -> None:
    await line.begin()
    await WORD.wait()
    await line.finish()


async def floods(line: Line) -> None:
    await line.send(OK + (STREAM if line.stream else JSON + b"transfer-encoding: chunked\r\n") + b"\r\n")
    while True:
        await line.event("x" * 16_000)
        await asyncio.sleep(0.005)


async def begins_an_event_without_end(line: Line) -> None:
    await line.send(OK + STREAM + b"\r\n")
    while True:
        await line.chunk(b"data: " + b"x" * 4000 + b"\n")
        await asyncio.sleep(0.02)


async def continues_for_ever(line: Line) -> None:
    while True:
        await line.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await asyncio.sleep(0.05)


async def speaks_no_http(line: Line) -> None:
    await line.send(b"\x16\x03\x01\x02\x00\x01\x00 220 mail.example ESMTP\r\n\r\n" * 20)
    await line.silence()


async def speaks_only_binary(line: Line) -> None:
    await line.send(os.urandom(1 << 16))


async def sends_garbage_as_events(line: Line) -> None:
    await line.send(OK + STREAM + b"\r\n")
    for _ in range(4):
        await line.chunk(b"\x00\xff\xfe{]]} data data: {{{\r\n\n\n" + b"\xed\xa0\x80" * 100 + b"\n\n")
    await line.send(b"0\r\n\r\n")


async def promises_more_than_it_sends(line: Line) -> None:
    kind = b"content-type: text/event-stream\r\n" if line.stream else JSON
    await line.send(OK + kind + b"content-length: 100000\r\n\r\ndata: {}\n\n")


async def promises_less_than_it_sends(line: Line) -> None:
    kind = b"content-type: text/event-stream\r\n" if line.stream else JSON
    await line.send(OK + kind + b"content-length: 10\r\n\r\n" + ANSWER)
    await line.silence()


async def has_two_lengths(line: Line) -> None:
    await line.send(OK + JSON + b"content-length: 5\r\ncontent-length: 900\r\n\r\n" + ANSWER)


async def has_length_and_chunks(line: Line) -> None:
    await line.send(OK + JSON + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n3\r\n{ }\r\n0\r\n\r\n")


async def has_headers_without_end(line: Line) -> None:
    await line.send(OK + b"x-filler: " + b"x" * 5_000_000 + b"\r\n\r\n")
    await line.silence()


async def has_one_header_that_never_ends(line: Line) -> None:
    await line.send(OK + b"x-filler: ")
    while True:
        await line.send(b"x" * 50_000)
        await asyncio.sleep(0.02)


async def has_too_many_headers(line: Line) -> None:
    await line.send(OK + b"".join(b"x-filler-%d: x\r\n" % number for number in range(20_000)) + b"\r\n{}")


async def has_a_strange_content_type(line: Line) -> None:
    await line.whole(b"200 OK", "content-type: application/json; x=\u00fc\u20ac\r\n".encode(), ANSWER)


async def answers_html(line: Line) -> None:
    await line.whole(b"200 OK", b"content-type: text/html\r\n", b"<html>It works!</html>")


async def answers_half_json(line: Line) -> None:
    await line.whole(b"200 OK", JSON, ANSWER[: len(ANSWER) // 2])


async def answers_nothing(line: Line) -> None:
    await line.whole(b"204 No Content", b"", b"")


async def redirects(line: Line) -> None:
    await line.whole(b"307 Temporary Redirect", b"location: http://127.0.0.1:9/\r\n", b"")


async def switches_protocols(line: Line) -> None:
    await line.send(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\nwhat")
    await line.silence()


async def has_a_status_of_its_own(line: Line) -> None:
    await line.whole(b"799 Mine", JSON, ANSWER)


async def refuses_in_html(line: Line) -> None:
    await line.whole(b"500 Internal Server Error", b"content-type: text/html\r\n", b"<html>\xff\xfe nginx</html>")


async def refuses_in_deep_json(line: Line) -> None:
    await line.whole(b"400 Bad Request", JSON, b"[" * 100_000)


async def refuses_in_strange_json(line: Line) -> None:
    error = {"error": {"message": {"a": [1]}, "code": [], "param": 5, "type": None}}
    await line.whole(b"422 Nope", JSON, json.dumps(error).encode())


async def refuses_with_strange_headers(line: Line) -> None:
    headers = "retry-after: \u00fc soon\r\n".encode() + JSON
    await line.whole(b"503 Service Unavailable", headers, b'{"error": {"message": "later"}}')


BEHAVIOURS: dict[str, Behaviour] = {
    name: made
    for name, made in list(globals().items())
    if asyncio.iscoroutinefunction(made) and made.__module__ == __name__
}


# What the engine says of itself; `state` of a body makes it say that from then on.
@dataclass(slots=True)
class Engine:
    base: dict[str, str]
    state: bytes | None = None
    usage: bytes = b""
    lines: set[asyncio.StreamWriter] = field(default_factory=set)
    feeds: set[Line] = field(default_factory=set)

    def good_state(self) -> bytes:
        return json.dumps(
            {"ready": True, "generation": "g", "restarts": 0, "base": self.base, "max_model_len": 512, "adapters": []}
        ).encode()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.lines.add(writer)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = [
                line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")
            ]
            body: Any = json.loads(await reader.readexactly(int(length[0]))) if length else {}
            path = head.split(b" ")[1].decode().partition("?")[0]
            await self.answer(path, body, Line(reader, writer, bool(body.get("stream"))))
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self.lines.discard(writer)
            writer.close()

    async def answer(self, path: str, body: dict[str, Any], line: Line) -> None:
        if path == wire.STATE:
            await line.whole(b"200 OK", JSON, self.state or self.good_state())
        elif path == wire.USAGE:
            await line.send(OK + b"transfer-encoding: chunked\r\nx-loradock-generation: g\r\n\r\n")
            if self.usage:
                await line.chunk(self.usage)
            self.feeds.add(line)
            try:
                await line.silence()
            finally:
                self.feeds.discard(line)
        elif path.startswith("/internal/"):
            await line.whole(b"200 OK", JSON, b"{}")
        else:
            await BEHAVIOURS[body["prompt"]](line)


async def main(port: int, name: str, digest: str) -> None:
    engine = Engine({"name": name, "digest": digest})
    server = await asyncio.start_server(engine.serve, "127.0.0.1", port, backlog=512, reuse_address=True)
    print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201 for who started it
    loop = asyncio.get_running_loop()
    orders = asyncio.StreamReader(limit=1 << 26)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    # One order a line: {"state": text or null} and {"usage": text} change what it says of itself,
    # {"publish": text} sends a line of usage to whoever follows, {"word": ""} is the word that some answers wait for.
    while order := await orders.readline():
        said = json.loads(order)
        if "state" in said:
            engine.state = None if said["state"] is None else said["state"].encode("utf-8", "surrogatepass")
        if "usage" in said:
            engine.usage = said["usage"].encode("utf-8", "surrogatepass")
            for writer in list(engine.lines):  # the feed is read anew
                writer.transport.abort()
        if "publish" in said:
            for feed in list(engine.feeds):
                await feed.chunk(said["publish"].encode() + b"\n")
        if "word" in said:
            WORD.set()
        print("done", flush=True)  # noqa: T201


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asyncio.run(main(int(sys.argv[1]), sys.argv[2], sys.argv[3]))
