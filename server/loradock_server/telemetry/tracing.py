"""A tracer provider made from the standard OTEL_* variables, and the W3C headers in and out.

Without an endpoint nothing would leave this process, so no span is recorded and a request pays nothing for
tracing; a caller's `traceparent` is still passed on. Sets no global provider: who builds it passes it down.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from loradock_server import __version__

SCOPE = "loradock"
_PROPAGATOR = TraceContextTextMapPropagator()


class TracingError(ValueError):
    """An OTEL_* variable asks for what we do not have; the message names it."""


def build_tracer_provider(service_name: str) -> trace.TracerProvider:
    """A provider that exports by OTLP http/protobuf if an endpoint is set, else one that records nothing.

    Resource, sampler, limits, headers and timeouts follow the standard variables. Raises TracingError.
    """
    if not _exporting():
        return trace.NoOpTracerProvider()
    ours = Resource.create({SERVICE_NAME: service_name, SERVICE_VERSION: __version__})
    resource = ours.merge(OTELResourceDetector().detect())  # the operator's names win over ours
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def shut_down(provider: trace.TracerProvider) -> None:
    """Send what is still waiting. Blocks for at most the exporter's timeout: call it in a thread."""
    if isinstance(provider, TracerProvider):
        provider.shutdown()


def extract(headers: Mapping[str, str]) -> Context:
    """The caller's trace context (lower-case header names); empty if there is none or it is malformed."""
    if "traceparent" not in headers:
        return Context()
    return _PROPAGATOR.extract(headers, context=Context())


def inject(headers: MutableMapping[str, str], span: trace.Span) -> None:
    """Add `traceparent` and `tracestate` of this span, if it has a context."""
    context = span.get_span_context()
    if not context.is_valid:
        return
    headers["traceparent"] = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
    if context.trace_state:
        headers["tracestate"] = context.trace_state.to_header()


def _exporting() -> bool:
    env = os.environ
    if env.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    exporter = env.get("OTEL_TRACES_EXPORTER", "otlp")
    if exporter == "none":
        return False
    if exporter != "otlp":
        raise TracingError(f"OTEL_TRACES_EXPORTER={exporter!r}: only 'otlp' and 'none' are supported")
    if not (env.get("OTEL_EXPORTER_OTLP_ENDPOINT") or env.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")):
        return False
    protocol = env.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", env.get("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"))
    if protocol != "http/protobuf":
        raise TracingError(
            f"OTEL_EXPORTER_OTLP_PROTOCOL={protocol!r}: only 'http/protobuf' is supported; "
            "send to the collector's HTTP port (4318)"
        )
    return True
