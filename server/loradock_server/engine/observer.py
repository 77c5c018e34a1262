"""Residency's and requests' events as the engine's metric families."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Metric, generate_latest

from loradock_adapters.names import AdapterRef
from loradock_server.telemetry.engine_metrics import EngineMetrics
from loradock_server.telemetry.labels import AdapterLabels

from .admission import Places
from .memory import Memory


class EngineObserver:
    """Counts loads, evictions and queueing, shows who is in memory.

    `further`: families served along with ours, from how many requests wait in line here.
    """

    def __init__(self, adapter_limit: int, further: Callable[[int], Iterable[Metric]] = lambda waiting: ()) -> None:
        self._metrics = EngineMetrics(CollectorRegistry(), adapter_limit)
        self._further = further
        self._exposing = threading.Lock()

    def loaded(self, adapter_id: str, seconds: float, *, ok: bool) -> None:
        labels = self._labels(adapter_id)
        self._metrics.adapter_loads.labels(*labels, "ok" if ok else "error").inc()
        if ok:
            self._metrics.adapter_load_seconds.labels(*labels).observe(seconds)

    def evicted(self, adapter_id: str, *, for_room: bool) -> None:
        if for_room:
            self._metrics.adapter_evictions.labels(*self._labels(adapter_id)).inc()

    def answered(self, adapter_id: str | None, queue_seconds: float | None) -> None:
        if queue_seconds is not None:
            self._metrics.queue_seconds.labels(*self._labels(adapter_id)).observe(queue_seconds)

    def exposition(self, memory: Memory, places: Places) -> bytes:
        """All families in Prometheus' text format, as of `memory` and `places`. May be called in a thread."""
        with self._exposing:  # or a scrape would find the series that another has just cleared
            self._show(memory)
            self._show_places(places)
            return generate_latest(_Both(self._metrics.registry, self._further(places.waiting)))

    def _show(self, memory: Memory) -> None:
        resident = self._metrics.adapter_resident
        resident.clear()  # whoever left has no series any more
        for adapter in memory.adapters:
            resident.labels(*self._labels(adapter.id), adapter.tier).inc()  # several may share the label "other"
        self._metrics.adapter_memory.set(memory.bytes)
        self._metrics.adapter_memory_limit.set(memory.limit_bytes)

    def _show_places(self, places: Places) -> None:
        info = self._metrics.lora_requests_info
        info.clear()  # one sample: who runs now, not who ran
        lists = (",".join(sorted(adapters)) for adapters in (places.taken, places.wanted))
        info.labels(places.limit, *lists).set_to_current_time()

    def _labels(self, adapter_id: str | None) -> AdapterLabels:
        if adapter_id is None:
            return self._metrics.adapters.labels(None)
        ref = AdapterRef.parse(adapter_id)
        return self._metrics.adapters.labels(ref.name, ref.version)


class _Both(CollectorRegistry):
    def __init__(self, own: CollectorRegistry, further: Iterable[Metric]) -> None:
        super().__init__()
        self._own, self._further = own, further

    def collect(self) -> Iterator[Metric]:
        yield from self._own.collect()
        yield from self._further
