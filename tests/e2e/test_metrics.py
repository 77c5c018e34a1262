"""Per-adapter metrics on the real server, exact also for streams that clients leave, and the dashboard over them."""

from __future__ import annotations

import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from loradock_adapters.base_model import BaseModel
from tests.deploy.promql import empty_queries, panel_queries, rule_queries
from tests.e2e.prometheus import run_prometheus
from tests.e2e.server import Server

pytestmark = pytest.mark.e2e

ADAPTER = "home-commands"


def tokens(server: Server, kind: str, adapter: str = ADAPTER) -> float:
    return server.metric("loradock_tokens_total", adapter=adapter, type=kind)


def settled(server: Server) -> None:
    """Usage records arrive a moment after the answer."""
    deadline = time.monotonic() + 10
    while server.metric("loradock_requests_in_flight") and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)


def test_requests_and_tokens_are_counted_by_adapter_as_the_client_sees_them(server: Server) -> None:
    settled(server)
    before = (tokens(server, "input"), tokens(server, "output"))
    count = server.metric("loradock_requests_total", adapter=ADAPTER, version="1", operation="chat", code="200")
    done = server.client().chat.completions.create(
        model=ADAPTER, messages=[{"role": "user", "content": "open the window"}], max_tokens=12
    )
    settled(server)
    assert done.usage is not None
    assert tokens(server, "input") - before[0] == done.usage.prompt_tokens
    assert tokens(server, "output") - before[1] == done.usage.completion_tokens
    after = server.metric("loradock_requests_total", adapter=ADAPTER, version="1", operation="chat", code="200")
    assert after - count == 1


def test_a_stream_that_its_client_leaves_is_aborted_and_its_tokens_are_counted(server: Server) -> None:
    settled(server)
    before = tokens(server, "output")
    stream = server.client().completions.create(
        model=ADAPTER, prompt="Once", max_tokens=1500, stream=True, extra_body={"ignore_eos": True}
    )
    seen = sum(1 for _, chunk in zip(range(10), stream, strict=False) if chunk.choices)
    stream.close()
    settled(server)
    counted = tokens(server, "output") - before
    assert seen <= counted < 1500
    assert server.metric("vllm:num_requests_running") == 0


def test_a_request_that_is_not_streamed_is_aborted_and_counted_too(server: Server, base: BaseModel) -> None:
    import httpx

    settled(server)
    before = tokens(server, "output", "base")
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{server.url}/v1/completions",
            json={"model": base.name, "prompt": "Once", "max_tokens": 1500, "ignore_eos": True},
            headers={"authorization": f"Bearer {server.key}"},
            timeout=1.5,
            trust_env=False,
        )
    settled(server)
    assert 0 < tokens(server, "output", "base") - before < 1500
    assert server.metric("vllm:num_requests_running") == 0


def test_the_gauge_for_endpoint_pickers_is_ours_and_has_one_sample(server: Server) -> None:
    def info() -> dict[str, str]:
        families = {family.name: family for family in text_string_to_metric_families(server.get("/metrics").text)}
        (sample,) = families["vllm:lora_requests_info"].samples
        return dict(sample.labels)

    settled(server)
    stream = server.client().completions.create(
        model=ADAPTER, prompt="Once", max_tokens=1500, stream=True, extra_body={"ignore_eos": True}
    )
    next(iter(stream))
    busy = info()
    stream.close()
    settled(server)
    assert (busy["running_lora_adapters"], busy["waiting_lora_adapters"]) == (f"{ADAPTER}@1", "")
    assert info() == {**busy, "running_lora_adapters": ""}


def test_no_query_of_dashboard_or_rules_comes_back_empty(server: Server, base: BaseModel) -> None:
    client = server.client()
    with run_prometheus(server.url.removeprefix("http://")) as prometheus:
        for _ in range(2):
            for model in (base.name, ADAPTER):
                client.completions.create(model=model, prompt="Hello", max_tokens=8)
                for _chunk in client.completions.create(model=model, prompt="Hello", max_tokens=8, stream=True):
                    pass
            settled(server)
            prometheus.wait_for_scrapes(3)
        empty = empty_queries(prometheus.url, [*panel_queries(), *rule_queries()])
    assert [(answer.query.panel, answer.expr) for answer in empty] == []
