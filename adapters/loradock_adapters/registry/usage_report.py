"""The usage ledger read back: sums by what somebody asks for, page by page.

Every group comes divided by adapter, because that is what prices are made for. It knows no price.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, Integer, Select, func, literal_column, select, tuple_
from sqlalchemy.orm import Session

from loradock_adapters.registry.database import Database
from loradock_adapters.registry.tables import KeyRow, UsageRow
from loradock_adapters.registry.usage import COUNTS, HOUR_SECONDS, Sums, hour_of

HOURS_OF_A_DAY = 24
LAST_HOUR = 2_000_000
"""The last hour that can be asked for, some time in 2198."""

MAX_PAGE = 1000


class Dimension(StrEnum):
    """What sums can be divided by, in the order in which rows are sorted. A version is one of an adapter."""

    DAY = "day"
    HOUR = "hour"
    TENANT = "tenant"
    KEY = "key"
    ADAPTER = "adapter"
    VERSION = "version"


@dataclass(frozen=True, slots=True)
class UsageQuery:
    """Which usage: of the hours from `since` on and before `until` (aware; a begun hour counts whole), of one key's id,
    adapter or tenant if they are given. `by` without a dimension is one sum.
    """

    since: datetime | None = None
    until: datetime | None = None
    key_id: str | None = None
    adapter: str | None = None
    tenant: str | None = None
    by: tuple[Dimension, ...] = ()

    def __post_init__(self) -> None:
        wanted = set(self.by) | ({Dimension.ADAPTER} if Dimension.VERSION in self.by else set())
        object.__setattr__(self, "by", tuple(one for one in Dimension if one in wanted))

    @property
    def hours(self) -> tuple[int | None, int | None]:
        """The first hour, and the one after the last; None where there is no bound."""
        end = None if self.until is None else _bounded(-int(-self.until.timestamp() // HOUR_SECONDS))
        return None if self.since is None else _bounded(hour_of(self.since)), end


def _bounded(hour: int) -> int:
    return max(0, min(hour, LAST_HOUR))


Values = tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """The sums of one group by adapter. `values` are the query's `by`, in order: days and hours since 1970, ids, names,
    version numbers (0: the base model).
    """

    values: Values
    parts: Mapping[str, Sums] = field(default_factory=dict)

    @property
    def sums(self) -> Sums:
        whole = Sums()
        for part in self.parts.values():
            whole.add(part)
        return whole


class UsageReport:
    """Reads the ledger; thread-safe. Every method may raise RegistryError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def page(self, query: UsageQuery, *, after: Values | None = None, limit: int = 100) -> Sequence[Group]:
        """The groups in order: those that follow `after`, at most `limit`."""
        if not query.by:
            return [self.total(query)] if after is None else []
        columns = [_COLUMNS[one] for one in query.by]
        found = _only(query, select(*columns)).group_by(*columns).order_by(*columns)
        if after is not None:
            found = found.where(tuple_(*columns) > tuple_(*after))
        with self._database.read() as session:
            groups = [tuple(row) for row in session.execute(found.limit(max(1, min(limit, MAX_PAGE))))]
            if not groups:
                return []
            parts = _only(query, select(*columns, UsageRow.adapter, *_SUMS)).group_by(*columns, UsageRow.adapter)
            parts = parts.where(tuple_(*columns) >= tuple_(*groups[0]), tuple_(*columns) <= tuple_(*groups[-1]))
            return _gathered(session, parts, groups)

    def key_names(self, ids: Iterable[str]) -> Mapping[str, str]:
        """The names of those keys that there are, or were."""
        with self._database.read() as session:
            found = session.execute(select(KeyRow.id, KeyRow.name).where(KeyRow.id.in_(sorted(set(ids)))))
            return {id: name for id, name in found}

    def total(self, query: UsageQuery) -> Group:
        """All of it in one."""
        with self._database.read() as session:
            parts = _only(query, select(UsageRow.adapter, *_SUMS)).group_by(UsageRow.adapter)
            return _gathered(session, parts, [()])[0]


_COLUMNS: Mapping[Dimension, ColumnElement[Any]] = {
    # Written out: PostgreSQL would take two parameters of the same value for two expressions.
    Dimension.DAY: UsageRow.hour // literal_column(str(HOURS_OF_A_DAY), Integer),
    Dimension.HOUR: UsageRow.hour.expression,
    Dimension.TENANT: UsageRow.tenant.expression,
    Dimension.KEY: UsageRow.key_id.expression,
    Dimension.ADAPTER: UsageRow.adapter.expression,
    Dimension.VERSION: UsageRow.version.expression,
}
_SUMS = tuple(func.sum(getattr(UsageRow, name)) for name in COUNTS)


def _only(query: UsageQuery, wanted: Select[Any]) -> Select[Any]:
    first, end = query.hours
    if first is not None:
        wanted = wanted.where(UsageRow.hour >= first)
    if end is not None:
        wanted = wanted.where(UsageRow.hour < end)
    named = {UsageRow.key_id: query.key_id, UsageRow.adapter: query.adapter, UsageRow.tenant: query.tenant}
    for column, value in named.items():
        if value is not None:
            wanted = wanted.where(column == value)
    return wanted


def _gathered(session: Session, parts: Select[Any], groups: Sequence[Values]) -> list[Group]:
    found: dict[Values, dict[str, Sums]] = {group: {} for group in groups}
    width = len(groups[0])
    for row in session.execute(parts):
        found[tuple(row[:width])][row[width]] = Sums(*(int(number) for number in row[width + 1 :]))
    return [Group(group, found[group]) for group in groups]
