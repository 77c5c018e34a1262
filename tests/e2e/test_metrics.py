"""Per-adapter metrics on the real server, exact also for streams that clients leave, and the dashboard over them."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from loadtest.correctness.loud import make_loud
from loradock_adapters.base_model import BaseModel
from tests.deploy.promql import empty_queries, panel_queries, rule_queries
from tests.e2e.prometheus import run_prometheus
from tests.e2e.server import Server
from tests.e2e.waiting import eventually, soon

pytestmark = pytest.mark.e2e

ADAPTER = "home-commands"
LONG: dict[str, Any] = {"prompt": "Once", "max_tokens": 1500, "extra_body": {"ignore_eos": True}}


@pytest.fixture
def unused(server: Server, base: BaseModel, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """An adapter that nothing was counted for."""
    name = f"unused-{zlib.crc32(request.node.name.encode())}"
    server.register(name, make_loud(tmp_path / name, base, seed=1, targets=["q_proj"]))
    yield name
    server.loradock("adapters", "delete", name, "--yes")


def tokens(server: Server, kind: str, adapter: str) -> float:
    return server.metric("loradock_tokens_total", adapter=adapter, type=kind)


def idle(server: Server) -> bool:
    return server.metric("vllm:num_requests_running") == server.metric("loradock_requests_in_flight") == 0


def test_requests_and_tokens_are_counted_by_adapter_as_the_client_sees_them(server: Server, unused: str) -> None:
    done = server.client().chat.completions.create(
        model=unused, messages=[{"role": "user", "content": "open the window"}], max_tokens=12
    )
    assert done.usage is not None
    labels = {"adapter": unused, "version": "1", "operation": "chat", "code": "200"}
    eventually(lambda: server.metric("loradock_requests_total", **labels) == 1)
    eventually(lambda: tokens(server, "output", unused) > 0)  # usage records arrive a moment after the answer
    assert tokens(server, "input", unused) == done.usage.prompt_tokens
    assert tokens(server, "output", unused) == done.usage.completion_tokens


def test_a_stream_that_its_client_leaves_is_aborted_and_its_tokens_are_counted(server: Server, unused: str) -> None:
    stream = server.client().completions.create(model=unused, stream=True, **LONG)
    seen = sum(1 for _, chunk in zip(range(10), stream, strict=False) if chunk.choices)
    stream.close()
    eventually(lambda: tokens(server, "output", unused) > 0)
    assert seen <= tokens(server, "output", unused) < 1500
    eventually(lambda: idle(server))


def test_a_request_that_is_not_streamed_is_aborted_and_counted_too(server: Server, unused: str) -> None:
    async def leave() -> None:
        before = server.metric("vllm:generation_tokens_total")
        async with server.async_client() as client:
            asking = asyncio.create_task(client.completions.create(model=unused, **LONG))
            await soon(lambda: server.metric("vllm:generation_tokens_total") > before + 5)
            assert not asking.done()
            asking.cancel()
            await asyncio.wait({asking})

    asyncio.run(leave())
    eventually(lambda: tokens(server, "output", unused) > 0)
    assert 5 < tokens(server, "output", unused) < 1500
    eventually(lambda: idle(server))


def test_the_gauge_for_endpoint_pickers_is_ours_and_has_one_sample(server: Server) -> None:
    def info() -> dict[str, str]:
        families = {family.name: family for family in text_string_to_metric_families(server.metrics())}
        (sample,) = families["vllm:lora_requests_info"].samples
        return dict(sample.labels)

    eventually(lambda: idle(server))
    stream = server.client().completions.create(model=ADAPTER, stream=True, **LONG)
    next(iter(stream))
    busy = info()
    stream.close()
    assert (busy["running_lora_adapters"], busy["waiting_lora_adapters"]) == (f"{ADAPTER}@1", "")
    eventually(lambda: info() == {**busy, "running_lora_adapters": ""})


def test_no_query_of_dashboard_or_rules_comes_back_empty(server: Server, base: BaseModel) -> None:
    client = server.client()
    with run_prometheus(server.url.removeprefix("http://")) as prometheus:
        for _ in range(2):
            for model in (base.name, ADAPTER):
                client.completions.create(model=model, prompt="Hello", max_tokens=8)
                for _chunk in client.completions.create(model=model, prompt="Hello", max_tokens=8, stream=True):
                    pass
            eventually(lambda: idle(server))
            prometheus.wait_for_scrapes(3)
        empty = empty_queries(prometheus.url, [*panel_queries(), *rule_queries()], patience_seconds=30)
    assert [(answer.query.panel, answer.expr) for answer in empty] == []
