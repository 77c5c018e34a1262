"""The engine's process is killed, stopped and continued under load, refuses connections, or lies about its state."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Awaitable

import httpx
import pytest

from tests.faults.test_engine_line import ask
from tests.faults.world import Engine, Gateway, eventually

STATE = {"ready": True, "generation": "g", "base": {"name": "x", "digest": ""}, "max_model_len": 512}
# test_watch.py has more, which the gateway's reading of a state alone decides.
LIES: tuple[str, ...] = (
    "no",
    "[" * 100_000,
    '{"ready": true, "restarts": 1e999}',
    json.dumps(STATE | {"adapters": [{"id": "a@1", "last_used": 1e300}]}),
)
USAGE_LIES: tuple[str, ...] = (
    "no\n",
    "[" * 100_000 + "\n",
    "x" * 3_000_000 + "\n",
    "5\n",
    "[]\n",
    '{"seq": 1e999}\n',
    '{"seq": 1, "request_id": null}\n',
    json.dumps(
        {
            "seq": 7,
            "request_id": ["r"],
            "input_tokens": 1e300,
            "output_tokens": -5,
            "finish_reason": {},
            "time_to_first_token_seconds": "soon",
            "residency": [],
            "ended_at": "now",
        }
    )
    + "\n",
)


async def under_load(gateway: Gateway, strike: Awaitable[None]) -> set[str]:
    """How requests end that wait, stream or are sent while something is done to the engine."""
    ways = [("says_nothing", True), ("says_nothing", False), ("dribbles", True), ("dribbles", False)] * 5
    async with gateway.async_http() as http:
        running = [asyncio.create_task(ask(http, way, stream=stream)) for way, stream in ways]
        await asyncio.to_thread(eventually, lambda: gateway.held()["permits"] == len(running))
        # The engine answers them in their order: when a later stream has begun, so have theirs.
        later = {"model": "tiny", "prompt": "dribbles", "stream": True}
        async with http.stream("POST", "/v1/completions", json=later) as stream:
            assert await anext(stream.aiter_bytes())
        assert not any(task.done() for task in running)
        await strike
        return {what for what, _ in await asyncio.gather(*running)}


@pytest.fixture
def good(gateway: Gateway, engine: Engine) -> dict[str, int]:
    """The world is in order; what the gateway holds then."""
    eventually(gateway.ready)
    gateway.require_quiet(before={"in_flight": 0, "permits": 0, "clients": 0, "upstream": 2})
    return gateway.held()


def test_a_killed_engine_ends_all_that_runs_at_once_and_its_successor_answers(
    gateway: Gateway, engine: Engine, good: dict[str, int]
) -> None:
    async def kill() -> None:
        await asyncio.to_thread(engine.kill)

    assert asyncio.run(under_load(gateway, kill())) == {"503 engine_unavailable", "event engine_unavailable"}
    # Nobody listens now: refused, said so, and nothing waits for a timeout.
    with gateway.http() as http:
        refused = http.post("/v1/completions", json={"model": "tiny", "prompt": "good"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "engine_unavailable")
        assert refused.elapsed.total_seconds() < 5
        engine.start()
        eventually(gateway.ready)
        assert http.post("/v1/completions", json={"model": "tiny", "prompt": "good"}).status_code == 200
    gateway.require_quiet(good)


def test_a_stopped_engine_costs_each_request_its_timeout_and_goes_on_when_it_is_continued(
    gateway: Gateway, engine: Engine, good: dict[str, int]
) -> None:
    async def stop() -> None:
        engine.signal(signal.SIGSTOP)

    try:
        ends = asyncio.run(under_load(gateway, stop()))
        assert ends == {"504 engine_timeout", "event engine_timeout"}
        eventually(lambda: not gateway.ready())
        assert httpx.get(f"{gateway.url}/healthz", trust_env=False, timeout=30).status_code == 200
        assert httpx.get(f"{gateway.url}/metrics", trust_env=False, timeout=30).status_code == 200
    finally:
        engine.signal(signal.SIGCONT)
    eventually(gateway.ready)
    with gateway.http() as http:
        assert http.post("/v1/completions", json={"model": "tiny", "prompt": "good"}).status_code == 200
    gateway.require_quiet(good)


def test_whatever_the_engine_says_of_itself_the_gateway_goes_on_looking_and_admins_get_answers(
    gateway: Gateway, engine: Engine, good: dict[str, int]
) -> None:
    with gateway.http() as http:
        for lie in LIES:
            engine.order(state=lie)
            eventually(lambda: not gateway.ready())
            assert http.get("/readyz").json()["reason"]
            assert http.get("/admin/adapters").status_code == 200
            assert http.get("/v1/models").status_code == 200
            engine.order(state=None)
            eventually(gateway.ready)
    gateway.require_quiet(good)


def test_a_usage_feed_of_nonsense_stops_neither_requests_nor_the_records_after_it(
    gateway: Gateway, engine: Engine, good: dict[str, int]
) -> None:
    with gateway.http() as http:
        before = tokens(http)
        for number, lie in enumerate(USAGE_LIES):
            record = {"seq": 100 + number, "request_id": "r", "adapter": None, "input_tokens": 3, "output_tokens": 1}
            engine.order(usage=lie + json.dumps(record) + "\n" if len(lie) < 2_000_000 else lie)
            if len(lie) < 2_000_000:
                now = before + 3
                eventually(lambda now=now: tokens(http) >= now)  # type: ignore[misc]
            before = tokens(http)
            assert http.post("/v1/completions", json={"model": "tiny", "prompt": "good"}).status_code == 200
        engine.order(usage="")
    gateway.require_quiet(good)


def tokens(http: httpx.Client) -> float:
    page = http.get("/metrics").text
    return sum(
        float(line.rsplit(" ", 1)[1])
        for line in page.splitlines()
        if line.startswith("loradock_tokens_total{") and 'type="input"' in line
    )
