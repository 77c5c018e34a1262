"""The routes by which a gateway looks after its engine: state, usage feed, pins, unloading, probing, metrics.

Behind the guard's token like everything else. Knows no vLLM; what it shows comes from the objects it is given.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any
from urllib.parse import parse_qs

from loradock_adapters.errors import AdapterError
from loradock_adapters.names import AdapterRef
from loradock_server import wire

from .admission import AdmissionError, Places
from .memory import Memory
from .probe import Probe
from .replies import Receive, Scope, Send, reply_bytes, reply_error, reply_json
from .residency import Residency, ResidencyError
from .signatures import Signatures
from .usage import UsageFeed

MAX_BODY = 1 << 20  # some thousand pins


class Internal:
    """A small ASGI application. `describe` gives the part of the state that the residency does not know; `places` who
    runs and who waits; `generation` names this process, within which the feed's sequence numbers count. Without a
    `probe` the base model generates nothing that could be compared.
    """

    def __init__(
        self,
        *,
        residency: Residency,
        signatures: Signatures,
        feed: UsageFeed,
        generation: str,
        describe: Callable[[], dict[str, Any]],
        places: Callable[[], Places],
        metrics: Callable[[Memory, Places], bytes],
        probe: Probe | None,
    ) -> None:
        self._residency = residency
        self._signatures = signatures
        self._feed = feed
        self._generation = generation
        self._describe = describe
        self._places = places
        self._metrics = metrics
        self._probe = probe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match scope["method"], scope["path"]:
            case "GET", wire.STATE:
                await reply_json(send, 200, self._state())
            case "GET", wire.METRICS:
                places = self._places()
                text = await asyncio.to_thread(self._metrics, Memory.of(self._residency, places.taken), places)
                await reply_bytes(send, 200, text, "text/plain; version=0.0.4; charset=utf-8")
            case "GET", wire.USAGE:
                await self._stream_usage(scope, receive, send)
            case "POST", wire.PINS:
                await self._pin(receive, send)
            case "POST", wire.UNLOAD:
                await self._unload(receive, send)
            case "POST", wire.PROBE:
                await self._judge(receive, send)
            case method, path:
                await reply_error(send, 404, f"no internal route {method} {path}", code="not_found")

    def _state(self) -> dict[str, Any]:
        return {**self._describe(), **Memory.of(self._residency, self._places().taken).as_state()}

    async def _stream_usage(self, scope: Scope, receive: Receive, send: Send) -> None:
        query = parse_qs(scope["query_string"].decode("latin-1"))
        gateway, after = query.get("gateway", [""])[0], query.get("after", ["0"])[0]
        if not gateway or not after.isdecimal():
            await reply_error(send, 400, "give ?gateway=ID&after=SEQUENCE", code="bad_query")
            return
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [
                    (b"content-type", b"application/x-ndjson"),
                    (wire.GENERATION.encode(), self._generation.encode()),
                ],
            }
        )
        async with asyncio.TaskGroup() as tasks:
            following = tasks.create_task(self._follow(gateway, int(after), send))
            while (await receive())["type"] != "http.disconnect":
                pass
            following.cancel()

    async def _follow(self, gateway: str, after: int, send: Send) -> None:
        async for line in self._feed.follow(gateway, after):
            await send({"type": "http.response.body", "body": line, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _pin(self, receive: Receive, send: Send) -> None:
        try:
            told = json.loads(await read(receive))["pins"]
            pins = [(str(pin["id"]), str(pin["digest"]), str(pin.get("signature") or "")) for pin in told]
            for adapter_id, _, _ in pins:
                AdapterRef.parse(adapter_id)
        except (ValueError, TypeError, KeyError, AttributeError, AdapterError):
            await reply_error(send, 400, 'give {"pins": [{"id": "name@version", "digest": "…"}]}', code="bad_body")
            return
        for _, digest, signature in pins:
            self._signatures.note(digest, signature)
        self._residency.pin({adapter_id: digest for adapter_id, digest, _ in pins})
        await reply_json(send, 200, {"pins": len(pins)})

    async def _unload(self, receive: Receive, send: Send) -> None:
        try:
            adapter_id = json.loads(await read(receive))["id"]
        except (ValueError, TypeError, KeyError):
            await reply_error(send, 400, 'give {"id": "name@version"}', code="bad_body")
            return
        try:
            unloaded = await self._residency.unload(str(adapter_id), timeout_seconds=60)
        except TimeoutError:
            await reply_error(send, 503, f"{adapter_id} still answers requests after 60 s", code="busy", retry_after=5)
            return
        except ResidencyError as error:
            await reply_error(send, error.status, str(error), code=error.code, retry_after=5)
            return
        await reply_json(send, 200, {"unloaded": unloaded})

    async def _judge(self, receive: Receive, send: Send) -> None:
        try:
            order = json.loads(await read(receive))
            adapter_id, digest = AdapterRef.parse(str(order["id"])).id, str(order["digest"])
            self._signatures.note(digest, str(order.get("signature") or ""))
        except (ValueError, TypeError, KeyError, AdapterError):
            await reply_error(send, 400, 'give {"id": "name@version", "digest": "…"}', code="bad_body")
            return
        if self._probe is None:
            await reply_error(send, 501, "this base model generates no text to compare", code="no_probe")
            return
        try:
            verdict = await self._probe.judge(adapter_id, digest)
        except AdmissionError as error:
            await reply_error(send, error.status, str(error), code=error.code, retry_after=error.retry_after)
        except ResidencyError as error:
            retry = 1 if error.status == 503 else None
            await reply_error(send, error.status, str(error), code=error.code, retry_after=retry)
        else:
            await reply_json(send, 200, asdict(verdict))


async def read(receive: Receive) -> bytes:
    """A small body; of one that is too large so much that it is no JSON."""
    body = b""
    more = True
    while more and len(body) <= MAX_BODY:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body
