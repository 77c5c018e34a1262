"""Runs a dashboard's and a rules file's queries against a real Prometheus, and says which come back empty.

Substitutes Grafana's variables as Grafana would. Knows Prometheus' HTTP API and nothing about LoRADock: which
server was scraped, and what was asked of it before, is the caller's business.
"""

from __future__ import annotations

import json
import math
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import promql_parser
import yaml

REPOSITORY = Path(__file__).parents[2]
DASHBOARD = REPOSITORY / "deploy/grafana/dashboards/adapters.json"
RULES = REPOSITORY / "deploy/prometheus/rules.yml"

# Wide enough for a server that has been scraped every second for half a minute.
VARIABLES: Mapping[str, str] = {
    "adapter": ".+",
    "__rate_interval": "1m",
    "__interval": "30s",
    "__range": "5m",
}
_VARIABLE = re.compile(r"\$\{(?P<braced>\w+)(?::\w+)?\}|\$(?P<plain>\w+)")


class PromqlError(ValueError):
    """A query names an unknown variable, or Prometheus refused it."""


@dataclass(frozen=True, slots=True)
class PanelQuery:
    """One query of one panel (or one rule), variables still in it."""

    panel: str
    ref: str
    expr: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What Prometheus said to a query: (labels, value) of each series now."""

    query: PanelQuery
    expr: str
    series: Sequence[tuple[Mapping[str, str], float]]

    @property
    def empty(self) -> bool:
        return not self.series

    @property
    def without_number(self) -> bool:
        """Every series is NaN, as a quantile is of a histogram that saw nothing in the window; empty too."""
        return all(math.isnan(value) for _, value in self.series)


def panel_queries(dashboard: Path = DASHBOARD) -> list[PanelQuery]:
    """Every query of every panel, those inside collapsed rows too."""

    def walk(panels: Iterable[Mapping[str, Any]]) -> Iterable[PanelQuery]:
        for panel in panels:
            for target in panel.get("targets", ()):
                yield PanelQuery(panel["title"], target["refId"], target["expr"])
            yield from walk(panel.get("panels", ()))

    return list(walk(json.loads(dashboard.read_text(encoding="utf-8"))["panels"]))


def rule_queries(rules: Path = RULES, *, alerts: bool = False) -> list[PanelQuery]:
    """Every recording rule, with `alerts` those too: they rightly come back empty while all is well."""
    groups = yaml.safe_load(rules.read_text(encoding="utf-8"))["groups"]
    return [
        PanelQuery(rule.get("alert") or rule["record"], "A", rule["expr"])
        for group in groups
        for rule in group["rules"]
        if alerts or "record" in rule
    ]


def substitute(expr: str, variables: Mapping[str, str] = VARIABLES) -> str:
    """`expr` with each $name, ${name} and ${name:format} replaced; PromqlError for a name not given."""

    def value(match: re.Match[str]) -> str:
        name = match["braced"] or match["plain"]
        if name not in variables:
            raise PromqlError(f"unknown variable ${name} in {expr!r}; known: {', '.join(sorted(variables))}")
        return variables[name]

    return _VARIABLE.sub(value, expr)


def metric_names(expr: str) -> frozenset[str]:
    """The metrics an expression selects (variables already substituted)."""
    names: set[str] = set()

    def visit(node: promql_parser.Expr) -> None:
        selector = node.vector_selector if isinstance(node, promql_parser.MatrixSelector) else node
        if isinstance(selector, promql_parser.VectorSelector) and selector.name:
            names.add(selector.name)

    promql_parser.walk(promql_parser.parse(expr), pre_visit=visit)
    return frozenset(names)


def ask(prometheus: str, query: PanelQuery, variables: Mapping[str, str] = VARIABLES) -> Answer:
    """Run one query now at the server with that base URL; raises PromqlError if it refuses the expression."""
    expr = substitute(query.expr, variables)
    result = _get(prometheus, "query", {"query": expr})["result"]
    if result and not isinstance(result[0], dict):  # a scalar is [time, value]
        return Answer(query, expr, [({}, float(result[1]))])
    return Answer(query, expr, [(series["metric"], float(series["value"][1])) for series in result])


def ask_all(
    prometheus: str,
    queries: Sequence[PanelQuery] | None = None,
    variables: Mapping[str, str] = VARIABLES,
) -> list[Answer]:
    """Run every query (default: the dashboard's) and return every answer."""
    return [ask(prometheus, query, variables) for query in (queries or panel_queries())]


def empty_queries(
    prometheus: str,
    queries: Sequence[PanelQuery] | None = None,
    variables: Mapping[str, str] = VARIABLES,
    *,
    patience_seconds: float = 0.0,
) -> list[Answer]:
    """The answers without a single series, by then: rules follow the scrapes they are about in their own time."""
    deadline = time.monotonic() + patience_seconds
    while True:
        found = [answer for answer in ask_all(prometheus, queries, variables) if answer.empty]
        if not found or time.monotonic() >= deadline:
            return found
        time.sleep(0.5)


def unknown_metrics(prometheus: str, queries: Sequence[PanelQuery] | None = None) -> list[str]:
    """Metrics that queries name and no scraped page announces (by its TYPE line, a sample is not needed).

    This catches what `or vector(0)` hides: a misspelt name that would be drawn as an eternal zero. Names with
    a colon are recorded by rules and skipped, but for `vllm:` families.
    """
    announced = set(_get(prometheus, "metadata", {}))
    return sorted(
        name
        for name in {n for q in (queries or panel_queries()) for n in metric_names(substitute(q.expr))}
        if not _recorded(name) and name != "up" and not announced & _families(name)
    )


def _recorded(name: str) -> bool:
    return ":" in name and not name.startswith("vllm:")


def _families(name: str) -> set[str]:
    """The names a sample's TYPE line may have: the text format keeps _total, OpenMetrics drops it."""
    return {name} | {name.removesuffix(s) for s in ("_bucket", "_sum", "_count", "_total") if name.endswith(s)}


def _get(prometheus: str, call: str, parameters: Mapping[str, str]) -> Any:
    url = f"{prometheus.rstrip('/')}/api/v1/{call}?{urllib.parse.urlencode(parameters)}"
    try:
        with urllib.request.urlopen(url, timeout=30) as response:
            return json.load(response)["data"]
    except urllib.error.HTTPError as error:
        raise PromqlError(f"{call} {dict(parameters)}: {error.read().decode(errors='replace')}") from error
