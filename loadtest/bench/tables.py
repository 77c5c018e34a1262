"""The bench's rows as tables: on a terminal, and in Markdown, one for each kind of processor."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from rich.table import Table

from .rows import Row


def described(report: dict[str, Any]) -> str:
    """The machine, the dtype and the kernel way of a report, in a line."""
    machine, engine = report["machine"], report.get("engine", {})
    return (
        f"{machine['cores']} cores of {machine['processor']}, Python {machine['python']}, {report['when'][:10]}; "
        f"dtype {engine.get('dtype', 'unknown')}, LoRA by {engine.get('kernel', 'unknown')}"
    )


def console_table(ours: list[Row], stock: dict[str, float], title: str) -> Table:
    table = Table(title=f"engine: ratios in one run\n{title}", title_justify="left")
    for column in ("work", "stock", "ours", "goal", "", "measured"):
        table.add_column(column, justify="left" if column in ("work", "measured") else "right")
    for row in ours:
        mark = {True: "reached", False: "missed", None: ""}[row.reached]
        table.add_row(row.name, _ratio(stock.get(row.name)), f"{row.ratio:.3f}", _goal(row), mark, _detail(row))
    return table


def markdown(report: dict[str, Any]) -> str:
    """The same, as docs/engine.md has it; a missed goal is bold."""
    stock = {row["name"]: row["ratio"] for row in report["stock"]}
    return f"{described(report)}.\n\n{rows_table([Row(**row) for row in report['ours']], stock)}"


def rows_table(ours: list[Row], stock: Mapping[str, float] = MappingProxyType({})) -> str:
    lines = ["| work | stock vLLM 0.32 | goal | LoRADock |", "|---|---|---|---|"]
    for row in ours:
        ratio = f"**{row.ratio:.2f}**" if row.reached is False else f"{row.ratio:.2f}"
        detail = f" ({_detail(row)})" if row.detail else ""
        lines.append(f"| {row.name} | {_ratio(stock.get(row.name))} | {_goal(row)} | {ratio}{detail} |")
    return "\n".join(lines)


def put_into(page: str, level: str, table: str) -> str:
    """The page with this table between the marks of that level of processor, which others' tables keep theirs beside.

    A level that has none yet gets marks after the last ones. Raises ValueError for a page without any.
    """
    begin, end = f"<!-- bench-engine {level} -->", f"<!-- end of bench-engine {level} -->"
    block = f"{begin}\n\n{table}\n\n{end}"
    if begin in page:
        before, _, rest = page.partition(begin)
        return before + block + rest.partition(end)[2]
    ends = list(re.finditer(r"<!-- end of bench-engine [a-z0-9-]+ -->", page))
    if not ends:
        raise ValueError("the page has no mark <!-- end of bench-engine LEVEL --> after which a table could go")
    return page[: ends[-1].end()] + "\n\n" + block + page[ends[-1].end() :]


def _ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _goal(row: Row) -> str:
    return "–" if row.goal is None else f"{'≥' if row.higher else '≤'} {row.goal:g}"


def _detail(row: Row) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in row.detail.items())
