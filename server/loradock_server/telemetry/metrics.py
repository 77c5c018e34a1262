"""What the gateway counts: requests, tokens and times per adapter, and whether the engine is up.

Instruments only; when to count is decided by the gateway. Families here and in `engine_metrics` are disjoint,
so that the gateway can append the engine's page to its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from loradock_server.telemetry import buckets
from loradock_server.telemetry.labels import LabelCap

ADAPTER = ("adapter", "version")


class GatewayMetrics:
    """Every metric family the gateway owns, registered with `registry`.

    `adapter_limit` bounds the distinct values of the `adapter` label; later names are counted as `other`. `shared` is
    the folder in which several processes count, each for itself: the one that PROMETHEUS_MULTIPROC_DIR named when this
    process began.
    """

    def __init__(self, registry: CollectorRegistry, adapter_limit: int = 200, *, shared: Path | None = None) -> None:
        self.registry = registry
        self._shared = shared
        self.adapters = LabelCap(adapter_limit)
        self.requests = Counter(
            "loradock_requests_total",
            "Inference requests by final HTTP status; 499 means that the client went away.",
            (*ADAPTER, "operation", "code"),
            registry=registry,
        )
        self.tokens = Counter(
            "loradock_tokens_total",
            "Tokens as the engine counted them, aborted requests included.",
            (*ADAPTER, "type"),
            registry=registry,
        )
        self.request_duration = Histogram(
            "loradock_request_duration_seconds",
            "Time from request to last byte, at the gateway.",
            ADAPTER,
            buckets=buckets.DURATION,
            registry=registry,
        )
        self.time_to_first_token = Histogram(
            "loradock_time_to_first_token_seconds",
            "Streams: time to the first content at the gateway. Otherwise: as the engine measured it.",
            ADAPTER,
            buckets=buckets.TIME_TO_FIRST_TOKEN,
            registry=registry,
        )
        self.time_per_output_token = Histogram(
            "loradock_time_per_output_token_seconds",
            "Streams with one choice: mean time between output tokens after the first, at the gateway.",
            ADAPTER,
            buckets=buckets.TIME_PER_OUTPUT_TOKEN,
            registry=registry,
        )
        self.requests_in_flight = Gauge(
            "loradock_requests_in_flight",
            "Inference requests being answered.",
            ADAPTER,
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.rate_limited = Counter(
            "loradock_rate_limited_total",
            "Requests turned away by a limit of the API key (key_...) or of the adapter (adapter_...).",
            ("adapter", "limit"),
            registry=registry,
        )
        self.usage_write_failures = Counter(
            "loradock_usage_write_failures_total",
            "Times the usage ledger could not be written; what was used waits in memory and is tried again.",
            registry=registry,
        )
        self.engine_up = Gauge(
            "loradock_engine_up",
            "1 while the engine answers and is ready.",
            registry=registry,
            multiprocess_mode="livemostrecent",
        )
        self.engine_restarts = LastKnownCounter(
            "loradock_engine_restarts", "Times the engine was started again after an exit."
        )
        self._heard = CollectorRegistry()
        self._heard.register(self.engine_restarts)

    def page(self) -> bytes:
        """All families as Prometheus reads them; of all workers together, if this is one of several."""
        counted = self.registry
        if self._shared is not None:
            counted = CollectorRegistry()
            MultiProcessCollector(counted, str(self._shared))  # type: ignore[no-untyped-call]
        return generate_latest(counted) + generate_latest(self._heard)


class LastKnownCounter(Collector):
    """A counter that somebody else counts; we show the last value we heard."""

    def __init__(self, name: str, documentation: str) -> None:
        self._name = name
        self._documentation = documentation
        self.value = 0

    def collect(self) -> Iterable[Metric]:
        yield CounterMetricFamily(self._name, self._documentation, value=self.value)
