"""The dashboard: built from its script, sound as far as can be told without Grafana, and never empty."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
import yaml
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Gauge

from deploy.grafana import build
from loradock_server.telemetry.engine_metrics import EngineMetrics
from loradock_server.telemetry.metrics import GatewayMetrics
from tests.deploy import promql
from tests.e2e.prometheus import Prometheus, run_prometheus
from tests.e2e.waiting import eventually

GRAFANA = Path(build.__file__).parent
PANELS = build.build()["panels"]
ADAPTERS = ("support-bot", "triage")


def test_the_committed_json_is_what_the_script_builds() -> None:
    assert build.DASHBOARD.read_text(encoding="utf-8") == build.render(), "run python -m deploy.grafana.build"


def test_panels_have_their_own_ids_and_do_not_overlap() -> None:
    ids = [panel["id"] for panel in PANELS]
    assert len(ids) == len(set(ids))
    taken: dict[tuple[int, int], str] = {}
    for panel in PANELS:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= build.WIDTH, panel["title"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, f"{panel['title']} lies on {taken.get((x, y))}"
                taken[x, y] = panel["title"]


def test_every_panel_asks_the_datasource_the_user_picked() -> None:
    for panel in PANELS:
        for asker in [panel, *panel.get("targets", ())] if panel["type"] != "row" else []:
            assert asker["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, panel["title"]


def test_the_adapter_variable_picks_several_and_all() -> None:
    (variable,) = [v for v in build.variables() if v["name"] == "adapter"]
    assert (variable["multi"], variable["includeAll"], variable["allValue"]) == (True, True, ".+")


def test_every_query_parses_once_its_variables_are_filled_in() -> None:
    queries = promql.panel_queries()
    assert len(queries) > 30
    for query in queries:
        assert promql.metric_names(promql.substitute(query.expr)), query.panel


def test_an_unknown_variable_is_refused_by_name() -> None:
    with pytest.raises(promql.PromqlError, match=r"unknown variable \$advice"):
        promql.substitute('x{a=~"$advice"}')


def test_names_are_found_under_ranges_offsets_and_fallbacks() -> None:
    names = promql.metric_names('sum(a{b="c"} unless a offset 5m or increase(d[5m])) / clamp_min(e, 1) or vector(0)')
    assert names == {"a", "d", "e"}


def test_provisioning_loads_the_folder_that_compose_mounts() -> None:
    provider = yaml.safe_load((GRAFANA / "provisioning/dashboards/loradock.yaml").read_text())["providers"][0]
    compose = yaml.safe_load((GRAFANA.parent / "compose.yaml").read_text())
    mounted = {volume["target"] for volume in compose["services"]["grafana"]["volumes"]}
    assert provider["options"]["path"] in mounted


def test_grafana_believes_the_scrape_interval_that_prometheus_has() -> None:
    datasource = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yaml").read_text())
    prometheus = yaml.safe_load((GRAFANA.parent / "prometheus/prometheus.yml").read_text())
    assert datasource["datasources"][0]["jsonData"]["timeInterval"] == prometheus["global"]["scrape_interval"]


class App:
    """A page with LoRADock's real metric families, used as a server is in its first seconds: no fault yet.

    Faithful because gateway and engine fill these same objects; vLLM's three gauges are copied by name.
    Always the plain text format: in OpenMetrics the client library turns `vllm:` into `vllm_`.
    """

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self.gateway = gateway = GatewayMetrics(registry)
        self.engine = EngineMetrics(registry)
        for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"):
            Gauge(f"vllm:{name}", name, registry=registry).set(0)
        self.gateway.engine_up.set(1)

        class Page(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", CONTENT_TYPE_LATEST)
                self.end_headers()
                self.wfile.write(gateway.page())

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
        self._thread = Thread(target=self.server.serve_forever)
        self._thread.start()
        self.address = f"127.0.0.1:{self.server.server_port}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()

    def answer(self, adapter: str, code: str = "200") -> None:
        labels = (adapter, "1")
        self.gateway.requests.labels(*labels, "chat", code).inc()
        for kind in ("input", "output", "cached"):
            self.gateway.tokens.labels(*labels, kind).inc(20)
        self.gateway.requests_in_flight.labels(*labels).set(0)
        self.gateway.request_duration.labels(*labels).observe(1.0)
        self.gateway.time_to_first_token.labels(*labels).observe(0.2)
        self.gateway.time_per_output_token.labels(*labels).observe(0.05)
        self.engine.queue_seconds.labels(*labels).observe(0.01)

    def load(self, adapter: str, result: str = "ok") -> None:
        self.engine.adapter_loads.labels(adapter, "1", result).inc()
        self.engine.adapter_load_seconds.labels(adapter, "1").observe(0.3)
        self.engine.adapter_resident.labels(adapter, "1", "memory").set(1)
        self.engine.adapter_memory.inc(10_000_000)
        self.engine.adapter_memory_limit.set(4 << 30)


@pytest.fixture(scope="module")
def used() -> Iterator[tuple[App, Prometheus]]:
    app = App()
    stop = Event()

    def use() -> None:
        while not stop.wait(0.3):
            for adapter in ADAPTERS:
                app.answer(adapter)

    user = Thread(target=use)
    try:
        with run_prometheus(app.address) as prometheus:
            prometheus.wait_for_scrapes(1)
            for adapter in ADAPTERS:
                app.load(adapter)
            user.start()
            prometheus.wait_for_scrapes(4)
            yield app, prometheus
    finally:
        stop.set()
        user.join()
        app.close()


def test_no_query_is_empty_on_a_freshly_used_server(used: tuple[App, Prometheus]) -> None:
    _, prometheus = used
    queries = promql.panel_queries() + promql.rule_queries()
    empty = promql.empty_queries(prometheus.url, queries, patience_seconds=30)
    assert [(answer.query.panel, answer.expr) for answer in empty] == []


def test_no_alert_holds_while_all_is_well(used: tuple[App, Prometheus]) -> None:
    _, prometheus = used
    names = [query.panel for query in promql.rule_queries(alerts=True)]
    alerts = [q for q in promql.rule_queries(alerts=True) if q.panel.startswith("LoraDock")]
    assert len(alerts) == len(names) - len(promql.rule_queries()) > 5
    assert promql.empty_queries(prometheus.url, alerts) == promql.ask_all(prometheus.url, alerts)


def test_every_metric_the_dashboard_and_the_rules_name_is_announced(used: tuple[App, Prometheus]) -> None:
    _, prometheus = used
    queries = promql.panel_queries() + promql.rule_queries(alerts=True)
    assert promql.unknown_metrics(prometheus.url, queries) == []


def test_a_misspelt_metric_is_caught_although_a_fallback_hides_it(used: tuple[App, Prometheus]) -> None:
    _, prometheus = used
    query = promql.PanelQuery("Evictions", "A", "sum(loradock_adapter_eviction_total) or vector(0)")
    assert promql.empty_queries(prometheus.url, [query]) == []
    assert promql.unknown_metrics(prometheus.url, [query]) == ["loradock_adapter_eviction_total"]


def test_a_query_without_series_is_reported_with_its_panel(used: tuple[App, Prometheus]) -> None:
    _, prometheus = used
    query = promql.PanelQuery("Nothing", "A", 'loradock_requests_total{adapter="nobody"}')
    assert [answer.query.panel for answer in promql.empty_queries(prometheus.url, [query])] == ["Nothing"]


def test_the_panels_show_what_happened(used: tuple[App, Prometheus]) -> None:
    _, prometheus = used
    answers: dict[str, Any] = {a.query.panel + a.query.ref: a.series for a in promql.ask_all(prometheus.url)}
    assert answers["EngineA"] == [({}, 1.0)]
    assert answers["Server errorsA"] == [({}, 0.0)]
    assert answers["Resident adaptersA"] == [({}, 2.0)]
    assert answers["Adapter memoryA"] == [({}, 20_000_000.0)]
    assert answers["Adapter memoryB"] == [({}, float(4 << 30))]
    assert dict((s["adapter"], v) for s, v in answers["Cold loads by adapterA"]) == dict.fromkeys(ADAPTERS, 1.0)
    assert answers["EvictionsA"] == [({}, 0.0)]
    ((_, load_seconds),) = answers["Load timeB"]
    assert 0.16 < load_seconds <= 0.32  # the only load of each took 0.3 s: no rate() would have seen it
    for labels, seconds in answers["Time to first tokenB"]:
        assert labels["adapter"] in ADAPTERS
        assert 0.1 < seconds <= 0.25  # 0.2 s lies in that bucket


def test_choosing_one_adapter_hides_the_others(used: tuple[App, Prometheus]) -> None:
    _, prometheus = used
    variables = {**promql.VARIABLES, "adapter": "triage"}
    answers = promql.ask_all(prometheus.url, variables=variables)
    seen = {labels["adapter"] for answer in answers for labels, _ in answer.series if "adapter" in labels}
    assert seen == {"triage"}


def test_the_first_failure_ever_shows_in_the_error_share(used: tuple[App, Prometheus]) -> None:
    app, prometheus = used
    app.answer("triage", "503")
    prometheus.wait_for_scrapes(2)
    app.answer("triage", "503")
    prometheus.wait_for_scrapes(3)
    (query,) = [q for q in promql.panel_queries() if q.panel == "Server error share by adapter"]

    def shares() -> dict[str, float]:
        return {labels["adapter"]: value for labels, value in promql.ask(prometheus.url, query).series}

    eventually(lambda: shares().get("triage", 0) > 0)
    assert 0 < shares()["triage"] < 0.5
    assert shares()["support-bot"] == 0


def test_the_dashboard_is_json_that_grafana_can_key_by_uid() -> None:
    dashboard = json.loads(build.DASHBOARD.read_text(encoding="utf-8"))
    assert dashboard["uid"] == "loradock-adapters"
    assert len(dashboard["uid"]) <= 40
