"""The names on the page are a contract with dashboards."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from loradock_server.telemetry.engine_metrics import EngineMetrics
from loradock_server.telemetry.metrics import GatewayMetrics


def families(page: bytes) -> set[str]:
    return {f.name for f in text_string_to_metric_families(page.decode()) if not f.name.endswith("_created")}


def test_gateway_and_engine_pages_hold_every_contract_family_once() -> None:
    engine = CollectorRegistry()
    EngineMetrics(engine)
    assert families(GatewayMetrics(CollectorRegistry()).page()) == {
        "loradock_requests",
        "loradock_tokens",
        "loradock_request_duration_seconds",
        "loradock_time_to_first_token_seconds",
        "loradock_time_per_output_token_seconds",
        "loradock_requests_in_flight",
        "loradock_rate_limited",
        "loradock_usage_write_failures",
        "loradock_engine_up",
        "loradock_engine_restarts",
    }
    assert families(generate_latest(engine)) == {
        "loradock_adapter_loads",
        "loradock_adapter_load_seconds",
        "loradock_adapter_evictions",
        "loradock_adapter_resident",
        "loradock_adapter_memory_bytes",
        "loradock_adapter_memory_limit_bytes",
        "loradock_queue_seconds",
        "vllm:lora_requests_info",
    }


def test_restarts_are_shown_as_last_heard() -> None:
    metrics = GatewayMetrics(CollectorRegistry())
    metrics.engine_restarts.value = 3
    assert "loradock_engine_restarts_total 3.0" in metrics.page().decode()


def test_the_gateway_sets_no_metric_outside_its_registry() -> None:
    GatewayMetrics(CollectorRegistry())
    GatewayMetrics(CollectorRegistry())  # a shared default registry would refuse the second
