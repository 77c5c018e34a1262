"""A small OTLP/HTTP receiver: keeps every span that gateway and engine export, as plain records."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

KINDS = {1: "INTERNAL", 2: "SERVER", 3: "CLIENT"}


@dataclass(frozen=True, slots=True)
class Span:
    """Ids are hex; `service` is the resource's service.name."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    kind: str
    service: str
    attributes: dict[str, Any]
    start_ns: int
    end_ns: int


class Receiver:
    """The spans received so far; `endpoint` goes into OTEL_EXPORTER_OTLP_ENDPOINT."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.endpoint = ""

    def in_trace(self, trace_id: str, *, count: int, timeout_seconds: float = 30.0) -> list[Span]:
        """All spans of a trace, once there are `count`."""
        deadline = time.monotonic() + timeout_seconds
        while len(found := [s for s in list(self.spans) if s.trace_id == trace_id]) < count:
            if time.monotonic() > deadline:
                raise AssertionError(f"{len(found)} of {count} spans came for trace {trace_id}: {found}")
            time.sleep(0.2)
        return found


@contextmanager
def run_receiver() -> Iterator[Receiver]:
    """Listen on a free port of 127.0.0.1 until the block ends."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = ExportTraceServiceRequest()
            request.ParseFromString(self.rfile.read(int(self.headers["content-length"])))
            receiver.spans.extend(_spans(request))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _spans(request: Any) -> Iterator[Span]:
    for resource in request.resource_spans:
        service = _attributes(resource.resource.attributes).get("service.name", "")
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield Span(
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    span.name,
                    KINDS.get(span.kind, str(span.kind)),
                    service,
                    _attributes(span.attributes),
                    span.start_time_unix_nano,
                    span.end_time_unix_nano,
                )


def _attributes(pairs: Any) -> dict[str, Any]:
    values = {}
    for pair in pairs:
        kind = pair.value.WhichOneof("value")
        value: Any = getattr(pair.value, kind) if kind else None
        values[pair.key] = [v.string_value for v in value.values] if kind == "array_value" else value
    return values
