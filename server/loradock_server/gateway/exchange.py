"""One inference request on its way through the gateway: who answers it, how it goes, when what happened.

A record with the clock and the spans in it; it sends nothing and counts nothing (`accounting` does, at its
end).
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from opentelemetry import trace
from opentelemetry.trace import INVALID_SPAN, Span, SpanKind, Status, StatusCode, Tracer

from loradock_server.gateway.limiting.permit import Holder, Permit
from loradock_server.gateway.routes import Operation
from loradock_server.gateway.table import Target
from loradock_server.telemetry import attributes as names

# Body field → span attribute, for those that the conventions recommend.
_REQUEST_FIELDS = {
    "max_tokens": names.REQUEST_MAX_TOKENS,
    "max_completion_tokens": names.REQUEST_MAX_TOKENS,
    "max_output_tokens": names.REQUEST_MAX_TOKENS,
    "temperature": names.REQUEST_TEMPERATURE,
    "top_p": names.REQUEST_TOP_P,
    "seed": names.REQUEST_SEED,
}


@dataclass(slots=True, eq=False)
class Exchange:
    """Times are `time.perf_counter()` seconds; `ended_ns` is the wall clock for the span."""

    request_id: str
    operation: Operation
    server_span: Span = INVALID_SPAN
    caller: str = ""
    holder: Holder | None = None
    permit: Permit | None = None
    limit_headers: tuple[tuple[str, str], ...] = ()
    tenant: str = ""
    asked: str = ""
    target: Target | None = None
    stream: bool = False
    choices: int = 1
    started: float = field(default_factory=time.perf_counter)
    sent: bool = False
    first_content: float | None = None
    last_chunk: float | None = None
    ended: float | None = None
    ended_ns: int | None = None
    code: int = 500
    error: BaseException | None = None
    residency: str | None = None
    span: Span = INVALID_SPAN

    @property
    def time_to_first_content(self) -> float | None:
        """Seconds from the request to the first content of a stream."""
        return None if self.first_content is None else self.first_content - self.started

    @property
    def duration(self) -> float:
        """Seconds from the request to its end."""
        return (self.ended or time.perf_counter()) - self.started

    def open_span(self, tracer: Tracer, base_name: str, body: Mapping[str, Any], *, content: bool) -> None:
        """Start the CLIENT span `{operation} {model}` under the SERVER span; both say who answers.

        `content` puts the prompt into it.
        """
        assert self.target is not None
        if not self.server_span.is_recording():  # then no sampler would have its child recorded
            self.span = self.server_span
            return
        about = _about(self.target, base_name)
        self.server_span.set_attributes(about)
        self.span = tracer.start_span(
            f"{self.operation.name} {self.asked}",
            context=trace.set_span_in_context(self.server_span),
            kind=SpanKind.CLIENT,
            attributes={
                names.OPERATION_NAME: self.operation.name,
                names.PROVIDER_NAME: names.PROVIDER,
                names.REQUEST_MODEL: self.asked,
                names.RESPONSE_MODEL: self.target.model,
                names.REQUEST_ID: self.request_id,
                **about,
            },
        )
        if self.stream:
            self.span.set_attribute(names.REQUEST_STREAM, True)
        if self.choices != 1:
            self.span.set_attribute(names.REQUEST_CHOICE_COUNT, self.choices)
        for key, attribute in _REQUEST_FIELDS.items():
            value = body.get(key)
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                self.span.set_attribute(attribute, value)
        if content:
            prompt = body.get("messages", body.get("prompt", body.get("input")))
            self.span.set_attribute(names.INPUT_MESSAGES, json.dumps(prompt))

    def end(self) -> None:
        """The last byte is out, or nobody is left to take it."""
        self.ended = time.perf_counter()
        self.ended_ns = time.time_ns()

    def close_span(self) -> None:
        """End the CLIENT span with the time at which the request ended, however late it is now."""
        if not self.span.is_recording():
            return
        if self.residency:
            self.span.set_attribute(names.ADAPTER_RESIDENCY, self.residency)
        if self.time_to_first_content is not None:
            self.span.set_attribute(names.RESPONSE_TIME_TO_FIRST_CHUNK, self.time_to_first_content)
        if self.error is not None:
            self.span.set_attribute(names.ERROR_TYPE, type(self.error).__name__)
            self.span.set_status(Status(StatusCode.ERROR, str(self.error)))
        self.span.end(end_time=self.ended_ns)


def _about(target: Target, base_name: str) -> dict[str, str | int]:
    if target.ref is None or target.digest is None:
        return {names.BASE_MODEL: base_name}
    about: dict[str, str | int] = {
        names.BASE_MODEL: base_name,
        names.ADAPTER_ID: target.ref.id,
        names.ADAPTER_NAME: target.ref.name,
        names.ADAPTER_VERSION: target.ref.version,
        names.ADAPTER_DIGEST: target.digest,
    }
    if target.alias is not None:
        about[names.ADAPTER_ALIAS] = target.alias
    return about
