"""One trace per request, from the client's own span through gateway and engine, with the adapter on every span."""

from __future__ import annotations

import pytest

from loradock_adapters.base_model import BaseModel
from tests.e2e.otlp import Receiver
from tests.e2e.server import Server

pytestmark = pytest.mark.e2e

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.mark.parametrize("stream", [False, True])
def test_three_spans_in_one_trace_and_each_names_the_adapter(
    server: Server, traces: Receiver, base: BaseModel, stream: bool
) -> None:
    trace_id = TRACE_ID[:-1] + ("1" if stream else "0")
    raw = server.client().chat.completions.with_raw_response.create(
        model="home-commands",
        messages=[{"role": "user", "content": "turn on the light"}],
        max_tokens=8,
        stream=stream,
        extra_headers={"traceparent": f"00-{trace_id}-00f067aa0ba902b7-01"},
    )
    raw.http_response.read()
    digest = raw.headers["x-loradock-adapter-digest"]
    found = traces.in_trace(trace_id, count=3)
    spans = {span.name: span for span in found}
    http, chat, engine = (
        spans["POST /v1/chat/completions"],
        spans["chat home-commands"],
        spans["llm_request"],
    )
    assert (http.kind, chat.kind, engine.kind) == ("SERVER", "CLIENT", "SERVER")
    assert http.parent_id == "00f067aa0ba902b7"
    assert (chat.parent_id, engine.parent_id) == (http.span_id, chat.span_id)
    assert (http.service, engine.service) == ("loradock-gateway", "loradock-engine")
    for span in (http, chat, engine):
        assert span.attributes["loradock.adapter.id"] == "home-commands@1"
        assert span.attributes["loradock.adapter.name"] == "home-commands"
        assert span.attributes["loradock.adapter.version"] == 1
        assert span.attributes["loradock.adapter.digest"] == digest
        assert span.attributes["loradock.base_model"] == base.name
    assert chat.attributes["gen_ai.operation.name"] == "chat"
    assert chat.attributes["gen_ai.request.model"] == "home-commands"
    assert chat.attributes["gen_ai.response.model"] == "home-commands@1"
    assert chat.attributes["gen_ai.usage.output_tokens"] == engine.attributes["gen_ai.usage.completion_tokens"]
    assert chat.attributes["gen_ai.usage.input_tokens"] == engine.attributes["gen_ai.usage.prompt_tokens"]
    assert not any("turn on the light" in str(value) for span in found for value in span.attributes.values())
