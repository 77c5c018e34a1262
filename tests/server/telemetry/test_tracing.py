"""The standard OTEL_* variables decide whether and where spans go."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from loradock_server.telemetry import tracing

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def collector() -> Iterator[tuple[str, list[bytes]]]:
    """An OTLP/HTTP collector that keeps the bodies it is sent."""
    bodies: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", bodies
    server.shutdown()
    server.server_close()
    thread.join()


def test_without_an_endpoint_nothing_is_recorded_but_the_callers_context_is_passed_on() -> None:
    provider = tracing.build_tracer_provider("loradock-gateway")
    span = provider.get_tracer("t").start_span("x", context=tracing.extract({"traceparent": PARENT}))
    assert not span.is_recording()
    headers: dict[str, str] = {}
    tracing.inject(headers, span)
    assert headers["traceparent"] == PARENT


def test_with_an_endpoint_spans_arrive_there_under_the_operators_names(
    monkeypatch: pytest.MonkeyPatch, collector: tuple[str, list[bytes]]
) -> None:
    endpoint, bodies = collector
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.name=mine,team=a")
    provider = tracing.build_tracer_provider("loradock-gateway")
    provider.get_tracer("t").start_span("hello").end()
    tracing.shut_down(provider)
    sent = ExportTraceServiceRequest.FromString(bodies[0]).resource_spans[0]
    resource = {pair.key: pair.value.string_value for pair in sent.resource.attributes}
    assert (resource["service.name"], resource["team"]) == ("mine", "a")
    assert resource["service.version"]
    assert sent.scope_spans[0].spans[0].name == "hello"


@pytest.mark.parametrize(("name", "value"), [("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_EXPORTER", "none")])
def test_tracing_can_be_switched_off_although_an_endpoint_is_set(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv(name, value)
    assert isinstance(tracing.build_tracer_provider("x"), trace.NoOpTracerProvider)


def test_an_unsupported_protocol_is_refused_with_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with pytest.raises(tracing.TracingError, match="grpc.*4318"):
        tracing.build_tracer_provider("x")
