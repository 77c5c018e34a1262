"""What a request cost is counted once, whole and under the right name, and told in one trace."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
from opentelemetry.trace import SpanKind, StatusCode

from loradock_server.gateway import accounting
from tests.fakes.engine import Gate, Reply
from tests.server.gateway.conftest import Gateway, Start, eventually

ASK: Any = [{"role": "user", "content": "a secret question"}]
BODY = {"model": "tiny", "prompt": "x"}
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
Withheld = Callable[[float], AbstractContextManager[tuple[Gateway, Gate]]]


def tokens(gateway: Gateway, kind: str, adapter: str = "poet") -> float:
    return gateway.metric("loradock_tokens_total", adapter=adapter, type=kind)


@pytest.fixture
def withheld(start: Start, monkeypatch: pytest.MonkeyPatch) -> Withheld:
    """A gateway that waits so many seconds for usage, after a request whose usage the engine keeps back; and the gate
    that lets it come.
    """

    @contextmanager
    def asked(wait_seconds: float) -> Iterator[tuple[Gateway, Gate]]:
        monkeypatch.setattr(accounting, "USAGE_WAIT_SECONDS", wait_seconds)
        with start() as gateway:
            gate = gateway.engine.usage_gate = gateway.engine.gate()
            gateway.http.post("/v1/completions", json=BODY)
            yield gateway, gate

    return asked


def test_a_request_is_counted_under_adapter_and_version(gateway: Gateway) -> None:
    gateway.register("poet")
    gateway.openai().chat.completions.create(model="poet", messages=ASK)
    eventually(lambda: tokens(gateway, "output") == 2)
    labels = {"adapter": "poet", "version": "1"}
    assert gateway.metric("loradock_requests_total", **labels, operation="chat", code="200") == 1
    assert gateway.metric("loradock_tokens_total", **labels, type="input") == 5
    assert gateway.metric("loradock_tokens_total", **labels, type="cached") == 2
    assert gateway.metric("loradock_request_duration_seconds_count", **labels) == 1
    assert gateway.metric("loradock_requests_in_flight", **labels) == 0


def test_the_base_model_is_counted_as_base(gateway: Gateway) -> None:
    gateway.http.post("/v1/completions", json=BODY)
    eventually(lambda: tokens(gateway, "output", "base") == 2)
    assert gateway.metric("loradock_requests_total", adapter="base", operation="text_completion") == 1


def test_a_refused_request_is_counted_under_no_adapter(gateway: Gateway) -> None:
    gateway.http.post("/v1/completions", json={"model": "nobody"})
    assert gateway.metric("loradock_requests_total", adapter="", code="404") == 1
    assert gateway.metric("loradock_requests_total") == 1


def test_a_request_in_flight_shows_as_such(gateway: Gateway) -> None:
    gate = gateway.engine.gate()
    gateway.engine.enqueue(Reply(gate=gate, gate_at=1))
    stream = iter(gateway.openai().completions.create(model="tiny", prompt="x", stream=True))
    next(stream)
    assert gateway.metric("loradock_requests_in_flight", adapter="base") == 1
    gate.open()
    list(stream)
    eventually(lambda: gateway.metric("loradock_requests_in_flight", adapter="base") == 0)


def test_tokens_of_an_aborted_stream_are_counted_once_and_exactly(gateway: Gateway) -> None:
    gate = gateway.engine.gate()
    gateway.engine.enqueue(Reply(tokens=("a", "b", "c", "d"), gate=gate, gate_at=3))
    gateway.register("poet")
    stream = gateway.openai().completions.create(model="poet", prompt="x", stream=True)
    for _, _chunk in zip(range(3), stream, strict=False):
        pass
    gateway.engine.wait_for(gate)
    stream.close()
    eventually(lambda: tokens(gateway, "output") == 3)
    assert tokens(gateway, "input") == 5
    (span,) = gateway.spans(named="text_completion")
    assert span.attributes is not None
    assert span.attributes["gen_ai.usage.output_tokens"] == 3
    assert span.attributes["gen_ai.response.finish_reasons"] == ("abort",)
    assert span.attributes["error.type"] == "ClientGone"
    assert gateway.metric("loradock_requests_total", adapter="poet") == 1


def test_records_are_counted_once_across_an_engine_restart(gateway: Gateway) -> None:
    for _ in range(3):
        gateway.http.post("/v1/completions", json=BODY)
    eventually(lambda: tokens(gateway, "output", "base") == 6)
    gateway.engine.die()
    gateway.engine.revive()
    gateway.notice_ended_connections()
    # Counts from one again: a gateway that went on after its third record would miss these.
    for _ in range(2):
        assert gateway.http.post("/v1/completions", json=BODY).status_code == 200
    eventually(lambda: tokens(gateway, "output", "base") == 10)
    gateway.engine.cut_connections()
    gateway.notice_ended_connections()
    gateway.http.post("/v1/completions", json=BODY)
    eventually(lambda: tokens(gateway, "output", "base") == 12)
    time.sleep(0.5)  # a repeated record would come with the reconnection
    assert tokens(gateway, "output", "base") == 12


def test_time_to_first_token_is_the_gateways_for_streams_and_the_engines_otherwise(gateway: Gateway) -> None:
    gateway.http.post("/v1/completions", json=BODY)
    eventually(lambda: gateway.metric("loradock_time_to_first_token_seconds_count") == 1)
    assert gateway.metric("loradock_time_to_first_token_seconds_sum") == pytest.approx(0.123)
    gate = gateway.engine.gate()
    gateway.engine.enqueue(Reply(tokens=("a", "b", "c"), gate=gate, gate_at=2))
    began = time.perf_counter()
    stream = iter(gateway.openai().completions.create(model="tiny", prompt="x", stream=True))
    next(stream)
    first = time.perf_counter() - began
    next(stream)
    time.sleep(0.3)
    gate.open()
    list(stream)
    eventually(lambda: gateway.metric("loradock_time_per_output_token_seconds_count") == 1)
    # Two gaps between three tokens, one of them of 0.3 s; none of it counts as time to the first.
    assert gateway.metric("loradock_time_per_output_token_seconds_sum") >= 0.15
    assert gateway.metric("loradock_time_to_first_token_seconds_sum") < 0.123 + first


def test_one_trace_leads_from_the_caller_through_both_spans_to_the_engine(gateway: Gateway) -> None:
    digest = gateway.register("poet")["digest"]
    gateway.http.post(
        "/v1/chat/completions",
        json={"model": "poet", "messages": ASK, "temperature": 0.5, "max_tokens": 9, "n": 2},
        headers={"traceparent": PARENT},
    )
    (client,) = gateway.spans(named="chat poet")
    (server,) = gateway.spans(named="POST /v1/chat/completions")
    assert server.parent is not None
    assert client.parent is not None
    assert format(server.context.trace_id, "032x") == PARENT.split("-")[1]
    assert format(server.parent.span_id, "016x") == PARENT.split("-")[2]
    assert client.parent.span_id == server.context.span_id
    sent = gateway.engine.history[0].headers["traceparent"]
    assert sent == f"00-{client.context.trace_id:032x}-{client.context.span_id:016x}-01"
    assert (server.kind, client.kind) == (SpanKind.SERVER, SpanKind.CLIENT)
    adapter = {
        "loradock.adapter.id": "poet@1",
        "loradock.adapter.name": "poet",
        "loradock.adapter.version": 1,
        "loradock.adapter.digest": digest,
        "loradock.adapter.alias": "live",
        "loradock.adapter.residency": "resident",
        "loradock.base_model": "tiny",
    }
    request_id = gateway.engine.history[0].headers["x-request-id"]
    assert dict(client.attributes or {}) == {
        **adapter,
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "vllm",
        "gen_ai.request.model": "poet",
        "gen_ai.response.model": "poet@1",
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.max_tokens": 9,
        "gen_ai.request.choice.count": 2,
        "gen_ai.usage.input_tokens": 5,
        "gen_ai.usage.output_tokens": 2,
        "gen_ai.usage.cache_read.input_tokens": 2,
        "gen_ai.response.finish_reasons": ("stop",),
        "loradock.request.id": request_id,
    }
    about = dict(server.attributes or {})
    assert adapter.items() <= about.items()
    assert (about["http.route"], about["http.response.status_code"]) == ("/v1/chat/completions", 200)
    assert "secret" not in str(client.attributes) + str(server.attributes)


def test_prompts_are_in_the_span_only_when_switched_on(start: Start) -> None:
    with start(record_content=True) as gateway:
        gateway.http.post("/v1/chat/completions", json={"model": "tiny", "messages": ASK})
        (client,) = gateway.spans(named="chat")
        assert "a secret question" in str((client.attributes or {})["gen_ai.input.messages"])


def test_a_stream_says_when_its_first_chunk_came(gateway: Gateway) -> None:
    began = time.perf_counter()
    list(gateway.openai().completions.create(model="tiny", prompt="x", stream=True))
    took = time.perf_counter() - began
    (client,) = gateway.spans(named="text_completion")
    assert client.attributes is not None
    assert client.attributes["gen_ai.request.stream"] is True
    first = client.attributes["gen_ai.response.time_to_first_chunk"]
    assert isinstance(first, float)
    assert 0 < first < took


def test_the_span_waits_for_late_usage_but_ends_when_the_request_ended(
    withheld: Withheld,
) -> None:
    with withheld(60.0) as (gateway, gate):
        (server,) = gateway.spans(named="POST /v1/completions")
        time.sleep(0.5)
        assert gateway.metric("loradock_requests_total", code="200") == 1
        assert gateway._spans("text_completion") == []
        gate.open()
        (client,) = gateway.spans(named="text_completion")
    assert client.attributes is not None
    assert client.attributes["gen_ai.usage.output_tokens"] == 2
    assert client.end_time is not None
    assert server.end_time is not None
    assert client.end_time <= server.end_time, "which was over before the usage came"


def test_usage_that_never_comes_keeps_no_span_open_and_late_tokens_still_count(
    withheld: Withheld,
) -> None:
    with withheld(0.5) as (gateway, gate):
        (client,) = gateway.spans(named="text_completion")
        assert "gen_ai.usage.output_tokens" not in (client.attributes or {})
        gate.open()
        eventually(lambda: tokens(gateway, "output", "base") == 2)
        assert gateway.metric("loradock_requests_total") == 1
        assert len(gateway._spans("text_completion")) == 1


def test_a_failed_request_is_an_error_in_both_spans(gateway: Gateway) -> None:
    gateway.engine.enqueue(Reply(die_at=0))
    gateway.http.post("/v1/completions", json=BODY)
    (client,) = gateway.spans(named="text_completion")
    (server,) = gateway.spans(named="POST /v1/completions")
    assert client.status.status_code == server.status.status_code == StatusCode.ERROR
    assert (client.attributes or {})["error.type"] == "EngineUnavailable"
    assert (server.attributes or {})["http.response.status_code"] == 503


def test_probes_and_scrapes_make_no_spans(gateway: Gateway) -> None:
    for path in ("/healthz", "/readyz", "/metrics"):
        gateway.http.get(path)
    gateway.http.get("/v1/models")
    gateway.spans(named="GET /v1/models")
    assert len(gateway.exporter.get_finished_spans()) == 1


def test_the_engines_metrics_are_appended_and_their_absence_breaks_nothing(gateway: Gateway) -> None:
    assert gateway.metric("loradock_adapter_resident") == 1
    gateway.engine.die()
    assert gateway.http.get("/metrics").status_code == 200
    assert gateway.metric("loradock_adapter_resident") == 0


def test_metrics_are_open_and_adapters_past_the_limit_are_counted_together(start: Start) -> None:
    with start(metrics_adapter_limit=1) as gateway:
        for name in ("poet", "clerk"):
            gateway.register(name)
            gateway.http.post("/v1/completions", json={"model": name, "prompt": "x"})
        eventually(lambda: tokens(gateway, "output", "other") == 2)
        assert gateway.http.get("/metrics", headers={"authorization": ""}).status_code == 200
        assert gateway.metric("loradock_requests_total", adapter="poet") == 1
        assert gateway.metric("loradock_requests_total", adapter="other", version="other") == 1
