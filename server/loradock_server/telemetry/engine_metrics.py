"""What the engine counts and shows: adapter loads, evictions and residency, who runs, and time spent in its queue.

Instruments only; the engine decides when to count and serves them under `/internal/metrics`.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from loradock_server.telemetry import buckets
from loradock_server.telemetry.labels import LabelCap

ADAPTER = ("adapter", "version")


class EngineMetrics:
    """Every metric family the engine owns; parameters as for GatewayMetrics."""

    def __init__(self, registry: CollectorRegistry, adapter_limit: int = 200) -> None:
        self.registry = registry
        self.adapters = LabelCap(adapter_limit)
        self.adapter_loads = Counter(
            "loradock_adapter_loads_total",
            "Adapter loads into the engine by result.",
            (*ADAPTER, "result"),
            registry=registry,
        )
        self.adapter_load_seconds = Histogram(
            "loradock_adapter_load_seconds",
            "Time from the wish for an adapter to its readiness in the engine.",
            ADAPTER,
            buckets=buckets.DURATION,
            registry=registry,
        )
        self.adapter_evictions = Counter(
            "loradock_adapter_evictions_total",
            "Adapters that left the engine's memory to make room.",
            ADAPTER,
            registry=registry,
        )
        self.adapter_resident = Gauge(
            "loradock_adapter_resident",
            "1 for the tier of the engine's memory that the adapter is in: slot while it may run, else memory.",
            (*ADAPTER, "tier"),
            registry=registry,
        )
        self.adapter_memory = Gauge(
            "loradock_adapter_memory_bytes", "Memory that adapters take in the engine.", registry=registry
        )
        self.adapter_memory_limit = Gauge(
            "loradock_adapter_memory_limit_bytes", "Memory that adapters may take in the engine.", registry=registry
        )
        # vLLM's name and labels: what endpoint pickers look for (llm-d, Gateway API Inference Extension).
        self.lora_requests_info = Gauge(
            "vllm:lora_requests_info",
            "Adapters that run, and adapters whose requests wait for one that runs to make way; value: now.",
            ("max_lora", "running_lora_adapters", "waiting_lora_adapters"),
            registry=registry,
        )
        self.queue_seconds = Histogram(
            "loradock_queue_seconds",
            "Time a request waited in the engine before it was first scheduled.",
            ADAPTER,
            buckets=buckets.DURATION,
            registry=registry,
        )
