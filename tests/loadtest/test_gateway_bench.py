"""What `make bench-gateway` measures with: the fake engine, and the gateway in front of it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest

from loadtest.gateway import servers, wrk
from loadtest.gateway.fake_engine import CHUNKS
from loadtest.gateway.servers import BenchError, Engine, Target


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with servers.fake_engine() as running:
        yield running


@pytest.fixture(scope="module")
def gateway(engine: Engine) -> Iterator[Target]:
    with servers.ours(engine) as target:
        yield target


def _ask(target: Target, *, stream: bool) -> httpx.Response:
    headers = {"content-type": "application/json", **target.headers}
    body = wrk.body_of(target, stream=stream)
    url = f"http://127.0.0.1:{target.port}{wrk.PATH}"
    return httpx.post(url, content=body, headers=headers, trust_env=False, timeout=60)


def test_directly_and_through_the_gateway_the_same_bytes_arrive(engine: Engine, gateway: Target) -> None:
    for stream in (False, True):
        direct, through = _ask(engine.target, stream=stream), _ask(gateway, stream=stream)
        assert direct.content == through.content
        assert through.headers["x-loradock-adapter"] == "adapter-000000@1"
        assert int(through.headers["x-ratelimit-limit-requests"]) == servers.LIMITS["requests_per_minute"]


def test_a_stream_has_so_many_chunks_and_its_end(engine: Engine) -> None:
    events = _ask(engine.target, stream=True).text.split("\n\n")
    assert len(events) - 1 == CHUNKS
    assert events[-2] == "data: [DONE]"
    assert all(json.loads(event.removeprefix("data: "))["choices"] for event in events[:-2])


def test_the_first_event_comes_before_the_end_of_time(gateway: Target) -> None:
    assert 0 < wrk.first_event(gateway, seconds=0.05) < 10_000


def test_without_wrk_it_says_what_to_install(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(BenchError, match="apt-get install wrk"):
        wrk.run(engine.target, clients=1, seconds=1, stream=False)
