"""Sums of the ledger as rows that people and programs read: JSON values and CSV lines, with names and costs."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from decimal import Decimal
from typing import Any

from loradock_adapters.registry.usage import Sums, hour_start
from loradock_adapters.registry.usage_report import HOURS_OF_A_DAY, Dimension, Group
from loradock_server.gateway.caller import ANONYMOUS, LOCAL
from loradock_server.gateway.usage_query import cursor_of
from loradock_server.prices import Prices, shown, total

# Keys that are in no registry.
_BUILT_IN = {LOCAL.id: LOCAL.name, ANONYMOUS.id: ANONYMOUS.name}
# What spreadsheets take for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")

COLUMNS: Mapping[Dimension, tuple[str, ...]] = {
    Dimension.DAY: ("day",),
    Dimension.HOUR: ("hour",),
    Dimension.TENANT: ("tenant",),
    Dimension.KEY: ("key", "key_name"),
    Dimension.ADAPTER: ("adapter",),
    Dimension.VERSION: ("version",),
}
"""What a row is called by, by what the sums are divided by."""


def counts_view(parts: Mapping[str, Sums], prices: Prices | None) -> dict[str, Any]:
    """The sums of some adapters together; `cost` is None without a price list, and `unpriced_tokens` are those that it
    has no price for.
    """
    whole = Sums()
    for part in parts.values():
        whole.add(part)
    counts = asdict(whole)
    if prices is None:
        return {**counts, "cost": None, "unpriced_tokens": None}
    amounts: list[Decimal] = []
    unpriced = 0
    for adapter, sums in parts.items():
        price = prices.of(adapter)
        if price is None:
            unpriced += sums.input_tokens + sums.output_tokens
        else:
            amounts.append(price.of(sums.input_tokens, sums.cached_tokens, sums.output_tokens))
    return {**counts, "cost": shown(total(amounts)), "unpriced_tokens": unpriced}


def row_view(group: Group, by: Sequence[Dimension], names: Mapping[str, str], prices: Prices | None) -> dict[str, Any]:
    """One row; what it is not divided by, it does not have."""
    said: dict[str, Any] = {"object": "usage", "id": cursor_of(group.values)}
    for dimension, value in zip(by, group.values, strict=True):
        said.update(_named(dimension, value, names))
    return {**said, **counts_view(group.parts, prices)}


def _named(dimension: Dimension, value: int | str, names: Mapping[str, str]) -> dict[str, Any]:
    match dimension:
        case Dimension.DAY:
            return {"day": (hour_start(0) + timedelta(hours=int(value) * HOURS_OF_A_DAY)).date().isoformat()}
        case Dimension.HOUR:
            return {"hour": hour_start(int(value)).isoformat()}
        case Dimension.KEY:
            return {"key": value, "key_name": _BUILT_IN.get(str(value), names.get(str(value)))}
        case Dimension.VERSION:
            return {"version": value or None}
        case _:
            return {str(dimension): value}


def csv_head(by: Sequence[Dimension]) -> list[str]:
    """The names of the columns."""
    named = [column for dimension in by for column in COLUMNS[dimension]]
    return [*named, *asdict(Sums()), "cost", "currency", "unpriced_tokens"]


def csv_lines(rows: Iterable[Sequence[object]]) -> bytes:
    """Rows as RFC 4180 has them. No text is a formula to the spreadsheet that opens it."""
    out = io.StringIO()
    csv.writer(out).writerows([[_harmless(value) for value in row] for row in rows])
    return out.getvalue().encode()


def csv_row(view: Mapping[str, Any], head: Sequence[str], prices: Prices | None) -> list[object]:
    """The cells of one row under `head`."""
    told = {**view, "currency": None if prices is None else prices.currency}
    return [told.get(column) for column in head]


def _harmless(value: object) -> object:
    if value is None:
        return ""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
