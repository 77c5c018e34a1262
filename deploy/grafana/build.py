"""Writes the per-adapter dashboard, `python -m deploy.grafana.build`: the JSON is made here, never edited.

Every query answers with at least one series once an adapter has streamed an answer: where a series may
rightly not exist yet (no error so far, nothing evicted) the query says `or` with a zero, so an empty panel
means that something is broken. Knows Grafana's JSON and LoRADock's metric names; asks no server.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DASHBOARD = Path(__file__).parent / "dashboards" / "adapters.json"
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
SELECTED = 'adapter=~"$adapter"'
LOADS = "loradock_adapter_loads_total"
RATE_LIMITED = "loradock_rate_limited_total"
EVICTIONS = "loradock_adapter_evictions_total"
LOAD_SECONDS = "loradock_adapter_load_seconds_bucket"
WIDTH = 24  # Grafana's grid columns

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Query:
    """One PromQL expression and how its series are named in the legend."""

    expr: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel: what it asks and how wide (grid columns) and tall (grid rows) it is drawn."""

    title: str
    queries: Sequence[Query]
    about: str
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    height: int = 8
    stacked: bool = False
    steps: Sequence[tuple[str, float | None]] = (("green", None),)
    mappings: Sequence[Json] = field(default_factory=tuple)


def quantiles(metric: str, *, by: str = "adapter") -> tuple[Query, ...]:
    """Median and 95th percentile of a histogram for the selected adapters."""
    return tuple(
        Query(
            f"histogram_quantile({share}, sum by ({by}, le) (rate({metric}_bucket{{{SELECTED}}}[$__rate_interval])))",
            f"{{{{{by}}}}} {label}",
        )
        for share, label in ((0.5, "p50"), (0.95, "p95"))
    )


def rate_by(metric: str, labels: str, legend: str, *, matching: str = SELECTED) -> Query:
    return Query(f"sum by ({labels}) (rate({metric}{{{matching}}}[$__rate_interval]))", legend)


def error_share(labels: str) -> str:
    """Share of server errors (5xx), 0 while there is none and 0 while there is no traffic."""
    grouping = f"sum by ({labels})" if labels else "sum"
    everything = f"{grouping} (rate(loradock_requests_total{{{SELECTED}}}[$__rate_interval]))"
    errors = f'{grouping} (rate(loradock_requests_total{{{SELECTED}, code=~"5.."}}[$__rate_interval]))'
    return f"({errors} or 0 * {everything}) / clamp_min({everything}, 1e-9)"


def events(metric: str, window: str, matching: str) -> str:
    """How often a rare thing happened in the window, its first time included.

    increase() cannot see a series' first value, and these counters are born with their first event: adapter
    "x" appears as 1, never as 0. So a series that did not exist a window ago counts with its value.
    """
    counter = f"{metric}{{{matching}}}"
    return f"({counter} unless {counter} offset {window} or increase({counter}[{window}]))"


def resident(labels: str) -> str:
    """Adapters held by the engine, 0 while it holds none."""
    return f"sum by ({labels}) (loradock_adapter_resident{{{SELECTED}}}) or on () vector(0)"


NOW = (
    Panel(
        "Engine",
        (Query("min(loradock_engine_up) or on () vector(0)"),),
        "1 while the gateway reaches a ready engine.",
        kind="stat",
        width=3,
        height=4,
        steps=(("red", None), ("green", 1)),
        mappings=({"type": "value", "options": {"0": {"text": "down"}, "1": {"text": "up"}}},),
    ),
    Panel(
        "Restarts in range",
        (Query("sum(increase(loradock_engine_restarts_total[$__range])) or on () vector(0)"),),
        "Times the supervisor started a new engine.",
        kind="stat",
        width=3,
        height=4,
        steps=(("green", None), ("orange", 1), ("red", 3)),
    ),
    Panel(
        "Requests",
        (Query(f"sum(rate(loradock_requests_total{{{SELECTED}}}[$__rate_interval]))"),),
        "Finished requests a second, all selected adapters.",
        "reqps",
        "stat",
        3,
        4,
    ),
    Panel(
        "Server errors",
        (Query(error_share("")),),
        "Share of answers with a 5xx code.",
        "percentunit",
        "stat",
        3,
        4,
        steps=(("green", None), ("orange", 0.01), ("red", 0.05)),
    ),
    Panel(
        "Output tokens",
        (Query(f'sum(rate(loradock_tokens_total{{{SELECTED}, type="output"}}[$__rate_interval]))'),),
        "Generated tokens a second, all selected adapters.",
        "short",
        "stat",
        3,
        4,
    ),
    Panel(
        "TTFT p95",
        (
            Query(
                "histogram_quantile(0.95, sum by (le) "
                f"(rate(loradock_time_to_first_token_seconds_bucket{{{SELECTED}}}[$__rate_interval])))"
            ),
        ),
        "95th percentile of the time to the first token, all selected adapters together.",
        "s",
        "stat",
        3,
        4,
        steps=(("green", None), ("orange", 2), ("red", 5)),
    ),
    Panel(
        "In flight",
        (Query(f"sum(loradock_requests_in_flight{{{SELECTED}}}) or on () vector(0)"),),
        "Requests being answered now.",
        "short",
        "stat",
        3,
        4,
    ),
    Panel(
        "Resident adapters",
        (
            Query(
                f"count(count by (adapter, version) (loradock_adapter_resident{{{SELECTED}}} > 0)) or on () vector(0)"
            ),
        ),
        "Adapter versions the engine holds, in any tier.",
        "short",
        "stat",
        3,
        4,
    ),
)

TRAFFIC = (
    Panel(
        "Requests by adapter",
        (rate_by("loradock_requests_total", "adapter", "{{adapter}}"),),
        "Finished requests a second.",
        "reqps",
        stacked=True,
    ),
    Panel(
        "Requests by adapter and code",
        (rate_by("loradock_requests_total", "adapter, code", "{{adapter}} {{code}}"),),
        "Finished requests a second, split by HTTP status code.",
        "reqps",
    ),
    Panel(
        "Server error share by adapter",
        (Query(error_share("adapter"), "{{adapter}}"),),
        "Answers with a 5xx code over all answers.",
        "percentunit",
    ),
    Panel(
        "Output tokens by adapter",
        (rate_by("loradock_tokens_total", "adapter", "{{adapter}}", matching=f'{SELECTED}, type="output"'),),
        "Generated tokens a second; aborted streams count too.",
        stacked=True,
    ),
    Panel(
        "Tokens by type",
        (rate_by("loradock_tokens_total", "type", "{{type}}"),),
        "Tokens a second: prompt (input), generated (output), and what of the prompt was in cache (cached).",
    ),
    Panel(
        "In flight by adapter",
        (Query(f"sum by (adapter) (loradock_requests_in_flight{{{SELECTED}}})", "{{adapter}}"),),
        "Requests being answered.",
        stacked=True,
    ),
    Panel(
        "Requests by version",
        (rate_by("loradock_requests_total", "adapter, version", "{{adapter}}@{{version}}"),),
        "Which version answered: a roll-out shows as one line taking over from another.",
        "reqps",
        width=16,
        height=7,
        stacked=True,
    ),
    Panel(
        "Turned away by a limit",
        (
            Query(
                f"sum by (adapter, limit) {events(RATE_LIMITED, '$__interval', SELECTED)} or on () vector(0)",
                "{{adapter}} {{limit}}",
            ),
        ),
        "Requests over a limit of their API key (key_…) or of the adapter (adapter_…), in each interval.",
        width=8,
        height=7,
        kind="bars",
    ),
)

LATENCY = (
    Panel(
        "Time to first token",
        quantiles("loradock_time_to_first_token_seconds"),
        "From the request's arrival at the gateway to the first token sent out; a cold load is in it.",
        "s",
        width=12,
    ),
    Panel(
        "Time per output token",
        quantiles("loradock_time_per_output_token_seconds"),
        "After the first token.",
        "s",
        width=12,
    ),
    Panel(
        "Request duration",
        quantiles("loradock_request_duration_seconds"),
        "From the request's arrival to the last byte.",
        "s",
        width=12,
    ),
    Panel(
        "Queue time",
        quantiles("loradock_queue_seconds"),
        "Time waiting in the engine before the first scheduled step.",
        "s",
        width=12,
    ),
)

ADAPTERS = (
    Panel(
        "Cold loads by adapter",
        (
            Query(
                f"sum by (adapter) {events(LOADS, '$__interval', SELECTED)} or on () vector(0)",
                "{{adapter}}",
            ),
        ),
        "Loads into the engine in each interval. A request that finds its adapter resident causes none.",
        kind="bars",
    ),
    Panel(
        "Loads by result",
        (
            Query(
                f"sum by (result) {events(LOADS, '$__interval', SELECTED)} or on () vector(0)",
                "{{result}}",
            ),
        ),
        "Loads in each interval, split by how they ended.",
        kind="bars",
    ),
    Panel(
        "Load time",
        tuple(
            Query(
                f"histogram_quantile({share}, sum by (le) {events(LOAD_SECONDS, '$__range', SELECTED)})",
                label,
            )
            for share, label in ((0.5, "p50"), (0.95, "p95"))
        ),
        "How long a load took, all selected adapters together, over the whole range shown: loads are rare.",
        "s",
    ),
    Panel(
        "Evictions",
        (
            Query(
                f"sum by (adapter) {events(EVICTIONS, '$__interval', SELECTED)} or on () vector(0)",
                "{{adapter}}",
            ),
        ),
        "Adapters pushed out to make room. A steady stream of them: raise LORADOCK_MAX_CPU_LORAS "
        "or LORADOCK_ADAPTER_MEMORY_BYTES.",
        kind="bars",
    ),
    Panel(
        "Resident by tier",
        (Query(resident("tier"), "{{tier}}"),),
        "Adapter versions the engine holds, by where.",
        stacked=True,
    ),
    Panel(
        "Residency by adapter",
        (Query(resident("adapter, version, tier"), "{{adapter}}@{{version}} {{tier}}"),),
        "1 while the engine holds that version in that tier.",
        kind="state-timeline",
    ),
    Panel(
        "Adapter memory",
        (
            Query("max(loradock_adapter_memory_bytes)", "in use"),
            Query("max(loradock_adapter_memory_limit_bytes)", "limit"),
        ),
        "What adapters take in the engine's memory, and LORADOCK_ADAPTER_MEMORY_BYTES.",
        "bytes",
    ),
)

ENGINE = (
    Panel(
        "Engine up",
        (Query("min(loradock_engine_up) or on () vector(0)", "engine"),),
        "1 while the gateway reaches a ready engine.",
        width=6,
    ),
    Panel(
        "Engine restarts",
        (
            Query(
                "sum(increase(loradock_engine_restarts_total[$__interval])) or on () vector(0)",
                "restarts",
            ),
        ),
        "New engine processes in each interval.",
        kind="bars",
        width=6,
    ),
    Panel(
        "vLLM scheduler",
        (
            Query("sum(vllm:num_requests_running)", "running"),
            Query("sum(vllm:num_requests_waiting)", "waiting"),
        ),
        "vLLM's own view: requests in the batch and requests waiting for room.",
        width=6,
    ),
    Panel(
        "Key/value cache",
        (Query("max(vllm:kv_cache_usage_perc)", "used"),),
        "Share of vLLM's key/value cache in use; near 1, requests wait or are preempted.",
        "percentunit",
        width=6,
    ),
)

ROWS = (
    ("Now", NOW),
    ("Traffic", TRAFFIC),
    ("Latency", LATENCY),
    ("Adapters in the engine", ADAPTERS),
    ("Engine", ENGINE),
)


def build() -> Json:
    """The whole dashboard as Grafana imports it."""
    return {
        "uid": "loradock-adapters",
        "title": "LoRADock: adapters",
        "description": "Traffic, latency, errors and residency of every adapter behind one base model.",
        "tags": ["loradock", "lora"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "timezone": "browser",
        "annotations": {"list": []},
        "links": [],
        "templating": {"list": variables()},
        "panels": list(lay_out(ROWS)),
    }


def variables() -> list[Json]:
    adapters = "label_values(loradock_requests_total, adapter)"
    return [
        {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"},
        {
            "name": "adapter",
            "label": "Adapter",
            "type": "query",
            "datasource": DATASOURCE,
            "definition": adapters,
            "query": {"query": adapters, "refId": "adapters"},
            "refresh": 2,  # on time range change: adapters come and go
            "sort": 1,
            "multi": True,
            "includeAll": True,
            "allValue": ".+",
            "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        },
    ]


def lay_out(rows: Iterable[tuple[str, Sequence[Panel]]]) -> Iterable[Json]:
    """Panels from left to right, a new line where the next does not fit, a heading over each row."""
    number, y = 1, 0
    for title, panels in rows:
        yield {
            "id": number,
            "type": "row",
            "title": title,
            "collapsed": False,
            "panels": [],
            "gridPos": {"x": 0, "y": y, "w": WIDTH, "h": 1},
        }
        number, y, x, line_height = number + 1, y + 1, 0, 0
        for panel in panels:
            if x + panel.width > WIDTH:
                x, y, line_height = 0, y + line_height, 0
            yield draw(panel, number, {"x": x, "y": y, "w": panel.width, "h": panel.height})
            number, x, line_height = number + 1, x + panel.width, max(line_height, panel.height)
        y += line_height


def draw(panel: Panel, number: int, place: Json) -> Json:
    return {
        "id": number,
        "type": "timeseries" if panel.kind == "bars" else panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": DATASOURCE,
        "gridPos": place,
        "interval": "30s" if panel.kind == "bars" else None,  # bars count events per interval: long enough to see
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": DATASOURCE,
                "expr": query.expr,
                "legendFormat": query.legend,
                "range": True,
            }
            for index, query in enumerate(panel.queries)
        ],
        "fieldConfig": {"defaults": field_defaults(panel), "overrides": []},
        "options": options(panel),
    }


def field_defaults(panel: Panel) -> Json:
    defaults: Json = {
        "unit": panel.unit,
        "min": 0,
        "mappings": list(panel.mappings),
        "thresholds": {
            "mode": "absolute",
            "steps": [{"color": color, "value": value} for color, value in panel.steps],
        },
    }
    if panel.kind in ("timeseries", "bars"):
        defaults["custom"] = {
            "drawStyle": "bars" if panel.kind == "bars" else "line",
            "fillOpacity": 60 if panel.kind == "bars" else 20 if panel.stacked else 0,
            "stacking": {"mode": "normal" if panel.stacked or panel.kind == "bars" else "none", "group": "A"},
            "showPoints": "never",
        }
    return defaults


def options(panel: Panel) -> Json:
    legend = {"showLegend": True, "displayMode": "list", "placement": "bottom", "calcs": []}
    if panel.kind == "stat":
        return {
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "colorMode": "value",
            "graphMode": "area",
            "textMode": "auto",
        }
    if panel.kind == "state-timeline":
        return {"showValue": "never", "mergeValues": True, "rowHeight": 0.9, "legend": legend}
    return {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}


def render() -> str:
    return json.dumps(build(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    DASHBOARD.write_text(render(), encoding="utf-8")
