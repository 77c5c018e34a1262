"""The guard before a small application: who gets in, what is loaded first, what is said when the engine dies."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
import pytest

from loradock_server import wire
from loradock_server.engine.admission import Admission, Rules
from loradock_server.engine.context import Generation, current_request
from loradock_server.engine.guard import Guard
from loradock_server.engine.internal import Internal
from loradock_server.engine.limits import MemoryLimits
from loradock_server.engine.pins import Pins
from loradock_server.engine.replies import Receive, Scope, Send
from loradock_server.engine.residency import AdapterUnfit
from loradock_server.engine.signatures import Signatures
from loradock_server.engine.usage import UsageFeed

TOKEN = {wire.TOKEN: "secret"}


class FakeResidency:
    """Yields leases without loading anything; the real one has its own tests."""

    def __init__(self) -> None:
        self.held: list[tuple[str, str]] = []
        self.prefetched: list[str] = []
        self.refuse: str | None = None

        self.limits = MemoryLimits(4, 1 << 20)
        self.pins = Pins(self.limits, {})
        self.used_bytes = 0

    def residents(self) -> list[Any]:
        return []

    def pin(self, wanted: Mapping[str, str]) -> None:
        self.pins.replace(wanted)

    def prefetch(self, adapter_id: str, digest: str) -> None:
        self.prefetched.append(adapter_id)

    @asynccontextmanager
    async def lease(self, adapter_id: str, digest: str) -> AsyncIterator[str]:
        if self.refuse:
            raise AdapterUnfit(self.refuse)
        self.held.append((adapter_id, digest))
        try:
            yield "cold"
        finally:
            self.held.remove((adapter_id, digest))


class Engine:
    errored = False


class World:
    """A guard with everything around it, driven over HTTP."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]], rules: Rules | None = None) -> None:
        self.engine, self.residency, self.feed = Engine(), FakeResidency(), UsageFeed()
        self.signatures = Signatures()
        internal = Internal(
            residency=self.residency,  # type: ignore[arg-type]
            signatures=self.signatures,
            feed=self.feed,
            generation="g",
            describe=lambda: {"ready": True},
            places=lambda: self.admission.places(),
            metrics=lambda memory, places: b"loradock_x 1\n",
            probe=None,
        )
        self.admission = Admission(rules or Rules(quantum_seconds=0.01), places=1, seats=2)
        self.queued: list[tuple[str | None, float | None]] = []
        self.guard = Guard(
            app,
            token="secret",
            admission=self.admission,
            residency=self.residency,  # type: ignore[arg-type]
            feed=self.feed,
            internal=internal,
            health=self.engine,
            signatures=self.signatures,
            answered=lambda adapter, queue: self.queued.append((adapter, queue)),
            routes=wire.COMPUTING - {"/v1/embeddings"} | wire.READING | {"/v1/models"},
            serves="tiny generates text",
        )
        transport = httpx.ASGITransport(app=self.guard)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://engine", headers=TOKEN)


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


def drive(main: Awaitable[None]) -> None:
    asyncio.run(asyncio.wait_for(main, 60))


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/livez", {wire.TOKEN: ""}, 200),
        ("/v1/models", {wire.TOKEN: ""}, 401),
        ("/v1/models", {wire.TOKEN: "wrong"}, 401),
        ("/internal/state", {wire.TOKEN: "wrong"}, 401),
        ("/metrics", {wire.TOKEN: ""}, 401),
        ("/metrics", {}, 404),
        ("/invocations", {}, 404),
        ("/tokenize", {wire.TOKEN: ""}, 401),
        ("/tokenizer_info", {}, 404),
        ("/v1/load_lora_adapter", {}, 404),
        ("/v1/responses/resp_1", {}, 404),
        ("/v1/chat/completions/render", {}, 404),
        ("/v1/embeddings", {}, 400),
        ("/tokenize", {}, 200),
        ("/v1/models", {}, 200),
        ("/internal/state", {}, 200),
        ("/internal/metrics", {}, 200),
        ("/internal/nothing", {}, 404),
    ],
)
def test_only_the_gateway_gets_in_and_only_where_it_has_business(
    path: str, headers: dict[str, str], status: int
) -> None:
    async def main() -> None:
        response = await World(answer).client.get(path, headers=headers)
        assert response.status_code == status
        if status >= 400:
            assert set(response.json()["error"]) == {"message", "type", "param", "code"}

    drive(main())


def test_an_adapter_is_held_while_its_request_runs_and_the_answer_says_how_it_was_found() -> None:
    async def main() -> None:
        held: list[tuple[str, str]] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            held.extend(world.residency.held)
            context = current_request.get()
            assert context is not None
            context.generations.append(lambda: Generation(3, 4, 0, "stop"))
            await answer(scope, receive, send)

        world = World(app)
        headers = {wire.ADAPTER: "a@1", wire.DIGEST: "d1", wire.GATEWAY: "gw", wire.REQUEST_ID: "r1"}
        headers |= {wire.KEY: "key-1", wire.TENANT: "a%20b"}
        response = await world.client.post("/v1/chat/completions", headers=headers)
        assert (response.text, response.headers[wire.RESIDENCY]) == ("hello", "cold")
        assert held == [("a@1", "d1")]
        assert world.residency.held == []
        record = json.loads(await anext(world.feed.follow("gw", 0)))
        assert (record["request_id"], record["adapter"]) == ("r1", "a@1")
        assert (record["input_tokens"], record["output_tokens"]) == (3, 4)
        assert (record["key"], record["tenant"], record["status"]) == ("key-1", "a%20b", 200)
        assert abs(record["ended_at"] - time.time()) < 60

    drive(main())


def test_the_record_of_a_request_says_how_it_was_answered() -> None:
    def status(app: Callable[[Scope, Receive, Send], Awaitable[None]], refuse: str | None = None) -> int | None:
        world = World(app)
        world.residency.refuse = refuse

        async def main() -> None:
            headers = {wire.ADAPTER: "a@1", wire.DIGEST: "d1", wire.GATEWAY: "gw"}
            with suppress(RuntimeError):
                await world.client.post("/v1/completions", headers=headers)

        drive(main())
        found: int | None = world.feed._records[0]["status"]
        return found

    async def too_long(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 400, "headers": []})
        await send({"type": "http.response.body", "body": b"too long"})

    async def left(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("its client left before a byte was sent")

    assert status(answer) == 200
    assert status(too_long) == 400
    assert status(answer, refuse="wrong base") == 422
    assert status(left) is None


def test_an_adapter_that_cannot_be_served_is_answered_with_its_reason_and_the_engine_never_hears_of_it() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError("must not be reached")

    async def main() -> None:
        world = World(app)
        world.residency.refuse = "rank 128 is above 64"
        response = await world.client.post("/v1/completions", headers={wire.ADAPTER: "a@1", wire.DIGEST: "d"})
        assert response.status_code == 422
        assert response.json()["error"]["message"] == "rank 128 is above 64"

    drive(main())


def test_an_engine_that_dies_before_answering_gives_a_clean_503_instead_of_vllms_500() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        world.engine.errored = True
        await send({"type": "http.response.start", "status": 500, "headers": []})
        await send({"type": "http.response.body", "body": b"EngineDeadError"})

    world = World(app)

    async def main() -> None:
        response = await world.client.post("/v1/completions")
        assert response.status_code == 503
        assert response.headers["retry-after"]
        assert response.json()["error"]["code"] == "engine_unavailable"

    drive(main())


def test_an_engine_that_dies_in_the_middle_breaks_the_stream_instead_of_ending_it_well() -> None:
    sent: list[dict[str, Any]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
        world.engine.errored = True
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})

    world = World(app)

    async def main() -> None:
        async def collect(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/v1/completions", "query_string": b""}
        scope["headers"] = [(wire.TOKEN.encode(), b"secret")]
        await world.guard(scope, None, collect)  # type: ignore[arg-type]

    drive(main())
    assert [message.get("body") for message in sent] == [None, b"data: 1\n\n"]
    assert sent[-1]["more_body"]


def test_draining_turns_new_requests_away_and_waits_for_the_running_ones() -> None:
    release = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await release.wait()
        await answer(scope, receive, send)

    async def main() -> None:
        world = World(app)
        running = asyncio.create_task(world.client.post("/v1/completions"))
        await asyncio.sleep(0.01)
        world.guard.drain.begin()
        assert not await world.guard.drain.idle(0.01)
        refused = await world.client.post("/v1/completions")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        release.set()
        assert await world.guard.drain.idle(60)
        assert (await running).status_code == 200

    drive(main())


@pytest.mark.parametrize("path", ["/internal/unload", "/internal/pins"])
@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b"\xff", b'{"pins": 3}', b'{"pins": [{"id": "a", "digest": "d"}]}']
)
def test_a_malformed_order_is_a_400(path: str, body: bytes) -> None:
    async def main() -> None:
        response = await World(answer).client.post(path, content=body)
        assert response.status_code == 400

    drive(main())


@pytest.mark.parametrize(
    "headers",
    [
        {wire.ADAPTER: "a@1"},
        {wire.DIGEST: "d"},
        {wire.ADAPTER: "a", wire.DIGEST: "d"},
        {wire.ADAPTER: "../a@1", wire.DIGEST: "d"},
        {wire.ADAPTER: "a@0", wire.DIGEST: "d"},
    ],
    ids=str,
)
def test_a_request_whose_adapter_headers_make_no_sense_is_refused_and_never_answered_without_a_lease(
    headers: dict[str, str],
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError("must not be reached")

    async def main() -> None:
        world = World(app)
        response = await world.client.post("/v1/completions", headers=headers)
        assert (response.status_code, response.json()["error"]["code"]) == (400, "bad_adapter_header")
        response = await world.client.post("/v1/completions", headers={wire.PRIORITY: "urgent"})
        assert (response.status_code, response.json()["error"]["code"]) == (400, "bad_priority_header")
        assert world.guard.drain.in_flight == 0

    drive(main())


def test_the_lease_lasts_until_the_engine_has_let_go_of_the_request_even_when_the_client_left() -> None:
    held_at_the_end: list[tuple[str, str]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        context = current_request.get()
        assert context is not None

        async def end() -> None:
            await asyncio.sleep(0)
            held_at_the_end.extend(world.residency.held)

        context.ends.append(end)
        raise ConnectionResetError("the client left")

    world = World(app)

    async def main() -> None:
        with pytest.raises(ConnectionResetError):
            await world.client.post("/v1/completions", headers={wire.ADAPTER: "a@1", wire.DIGEST: "d1"})
        assert held_at_the_end == [("a@1", "d1")]
        assert world.residency.held == []

    drive(main())


class Adapters:
    """An application that answers each adapter's requests when it is told to."""

    def __init__(self) -> None:
        self.bodies: dict[str, bytes] = {}
        self.release: dict[str, asyncio.Event] = {name: asyncio.Event() for name in ("a@1", "b@1")}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        context = current_request.get()
        assert context is not None
        assert context.adapter is not None
        self.bodies[context.adapter] = (await receive())["body"]
        context.generations.append(lambda: Generation(1, 1, 0, None, queue_seconds=0.5))
        await self.release[context.adapter].wait()
        await answer(scope, receive, send)


def ask(world: World, adapter: str) -> asyncio.Task[httpx.Response]:
    headers = {wire.ADAPTER: adapter, wire.DIGEST: f"of {adapter}", wire.GATEWAY: "gw"}
    content = f"body of {adapter}".encode()
    return asyncio.create_task(world.client.post("/v1/completions", headers=headers, content=content))


def test_a_request_out_of_turn_waits_without_holding_its_adapter_and_its_wait_is_counted() -> None:
    async def main() -> None:
        app = Adapters()
        world = World(app)
        began = time.monotonic()
        first, second = ask(world, "a@1"), ask(world, "b@1")
        await asyncio.sleep(0.2)
        assert set(app.bodies) == {"a@1"}
        assert world.residency.held == [("a@1", "of a@1")]
        assert world.residency.prefetched == ["b@1"]
        for event in app.release.values():
            event.set()
        assert (await first).status_code == (await second).status_code == 200
        took = time.monotonic() - began
        assert app.bodies["b@1"] == b"body of b@1", "what was read during the wait must reach the application"
        queued = dict(world.queued)
        assert queued["a@1"] == pytest.approx(0.5, abs=0.05)
        assert 0.69 <= (queued["b@1"] or 0) < 0.5 + took + 0.01  # the loop's timers may be a hair early
        assert (world.admission.waiting, world.admission.running) == (0, 0)

    drive(main())


@pytest.mark.parametrize(
    ("rules", "status", "code"),
    [
        (Rules(max_waiting_per_adapter=0), 429, "adapter_queue_full"),
        (Rules(max_waiting=0), 503, "queue_full"),
    ],
)
def test_a_full_line_is_said_with_the_time_to_come_back(rules: Rules, status: int, code: str) -> None:
    async def main() -> None:
        app = Adapters()
        world = World(app, rules)
        running = ask(world, "a@1")
        await asyncio.sleep(0.01)
        refused = await ask(world, "b@1")
        assert (refused.status_code, refused.json()["error"]["code"]) == (status, code)
        assert int(refused.headers["retry-after"]) >= 1
        assert ("b@1", None) in world.queued
        app.release["a@1"].set()
        assert (await running).status_code == 200

    drive(main())


def test_a_client_that_leaves_while_it_waits_leaves_its_line() -> None:
    async def main() -> None:
        app = Adapters()
        world = World(app)
        running = ask(world, "a@1")
        await asyncio.sleep(0.01)
        messages = [{"type": "http.request", "body": b"x", "more_body": False}, {"type": "http.disconnect"}]

        async def receive() -> Any:
            await asyncio.sleep(0.02)
            return messages.pop(0)

        async def send(message: Any) -> None:
            raise AssertionError("nobody is left to answer")

        scope = {"type": "http", "method": "POST", "path": "/v1/completions", "query_string": b""}
        names = {wire.TOKEN: "secret", wire.ADAPTER: "b@1", wire.DIGEST: "d"}
        scope["headers"] = [(name.encode(), value.encode()) for name, value in names.items()]
        began = time.monotonic()
        await world.guard(scope, receive, send)
        took = time.monotonic() - began
        assert world.admission.waiting == 0
        assert world.queued[0][0] == "b@1"
        assert 0.03 < (world.queued[0][1] or 0) < took + 0.01
        app.release["a@1"].set()
        assert (await running).status_code == 200

    drive(main())


def test_a_question_that_computes_nothing_needs_no_seat() -> None:
    async def main() -> None:
        app = Adapters()

        async def either(scope: Scope, receive: Receive, send: Send) -> None:
            await (answer if scope["method"] == "GET" or scope["path"] == "/tokenize" else app)(scope, receive, send)

        world = World(either)
        running = [ask(world, "a@1") for _ in range(3)]
        await asyncio.sleep(0.01)
        assert world.admission.waiting == 1
        assert (await world.client.get("/v1/models")).status_code == 200
        assert (await world.client.post("/tokenize")).status_code == 200
        app.release["a@1"].set()
        await asyncio.gather(*running)
        assert len(world.queued) == 3, "and there is no record of what it cost"

    drive(main())
