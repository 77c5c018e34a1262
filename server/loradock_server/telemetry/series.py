"""One adapter version's own series of every metric, each looked up once: that costs more than counting.

A series begins to exist when something is counted in it. It decides nothing of what is counted.
"""

from __future__ import annotations

from functools import cached_property

from prometheus_client import Counter, Gauge, Histogram

from loradock_adapters.names import AdapterRef
from loradock_server.telemetry.labels import AdapterLabels
from loradock_server.telemetry.metrics import GatewayMetrics

UNKNOWN: AdapterLabels = ("", "")  # refused before we knew who would answer

_REMEMBERED = 4096


class Series:
    """The children with these values of `adapter` and `version`."""

    def __init__(self, metrics: GatewayMetrics, labels: AdapterLabels) -> None:
        self._metrics = metrics
        self._labels = labels
        self._requests: dict[tuple[str, int], Counter] = {}

    def requests(self, operation: str, code: int) -> Counter:
        """Requests of an operation that ended with this status."""
        found = self._requests.get((operation, code))
        if found is None:
            found = self._metrics.requests.labels(*self._labels, operation, str(code))
            self._requests[operation, code] = found
        return found

    @cached_property
    def requests_in_flight(self) -> Gauge:
        return self._metrics.requests_in_flight.labels(*self._labels)

    @cached_property
    def request_duration(self) -> Histogram:
        return self._metrics.request_duration.labels(*self._labels)

    @cached_property
    def time_to_first_token(self) -> Histogram:
        return self._metrics.time_to_first_token.labels(*self._labels)

    @cached_property
    def time_per_output_token(self) -> Histogram:
        return self._metrics.time_per_output_token.labels(*self._labels)

    @cached_property
    def input_tokens(self) -> Counter:
        return self._metrics.tokens.labels(*self._labels, "input")

    @cached_property
    def output_tokens(self) -> Counter:
        return self._metrics.tokens.labels(*self._labels, "output")

    @cached_property
    def cached_tokens(self) -> Counter:
        return self._metrics.tokens.labels(*self._labels, "cached")


class SeriesTable:
    """Who is counted where. One event loop only."""

    def __init__(self, metrics: GatewayMetrics) -> None:
        self._metrics = metrics
        self._by_labels: dict[AdapterLabels, Series] = {}  # no more than LabelCap gives
        self._by_ref: dict[AdapterRef | None, Series] = {}
        self.unknown = self._with(UNKNOWN)

    def of(self, ref: AdapterRef | None) -> Series:
        """The series of a version; None means the base model."""
        found = self._by_ref.get(ref)
        if found is None:
            if len(self._by_ref) >= _REMEMBERED:
                self._by_ref.clear()
            adapters = self._metrics.adapters
            labels = adapters.labels(None) if ref is None else adapters.labels(ref.name, ref.version)
            found = self._by_ref[ref] = self._with(labels)
        return found

    def _with(self, labels: AdapterLabels) -> Series:
        found = self._by_labels.get(labels)
        if found is None:
            found = self._by_labels[labels] = Series(self._metrics, labels)
        return found
