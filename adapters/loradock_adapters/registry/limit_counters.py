"""What all gateways together let through of what is limited: buckets that drain, running requests, tokens of a day.

Each gateway tells what it took since it last told, and hears what that makes together with the others. Times are the
database's own, so that gateways need not agree on one. It knows no limit but the speed at which a bucket drains.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import ColumnElement, Insert, case, delete, func, select, tuple_
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from loradock_adapters.registry.database import Database
from loradock_adapters.registry.tables import LimitBucketRow, LimitDayRow, LimitRunningRow

RUNNING_SECONDS = 10.0
"""So long a gateway's running requests count after it last told of them."""

T = TypeVar("T")

_KEPT_DAYS = 2
_AT_ONCE = 500  # rows of one statement; SQLite bounds its parameters


class BucketTaken(NamedTuple):
    """What one gateway put into a bucket (negative: took back), and how much of its content drains in a second."""

    subject: str
    kind: str
    taken: float
    per_second: float


class Running(NamedTuple):
    """How many requests of a subject one gateway is answering."""

    subject: str
    requests: int


class DayTaken(NamedTuple):
    """Tokens that one gateway charged to a day (days since 1970, UTC)."""

    subject: str
    day: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Together:
    """`buckets`: content by (subject, kind). `elsewhere`: requests that other gateways answer, by subject."""

    buckets: Mapping[tuple[str, str], float] = field(default_factory=dict)
    elsewhere: Mapping[str, int] = field(default_factory=dict)


class LimitTable:
    """The counters in the registry's database; thread-safe. Every method may raise RegistryError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def exchange(self, gateway: str, taken: Collection[BucketTaken], running: Collection[Running]) -> Together:
        """Tell and hear of these buckets and subjects, each named once; all of it counts, or nothing."""
        with self._database.aside() as session:
            now = _now(session)
            buckets: dict[tuple[str, str], float] = {}
            for part in _parts(sorted(taken)):
                buckets.update(_fill(session, part, now))
            _say_running(session, gateway, sorted(running), now)
            return Together(buckets, _elsewhere(session, gateway, [one.subject for one in running], now))

    def charge(self, taken: Collection[DayTaken]) -> Mapping[tuple[str, int], int]:
        """Charge tokens, of each subject and day once; what that makes with what was charged before, never below 0."""
        totals: dict[tuple[str, int], int] = {}
        with self._database.aside() as session:
            for part in _parts(sorted(taken)):
                insert = _insert(session, LimitDayRow)
                total = LimitDayRow.tokens + insert.excluded.tokens
                done = insert.values([one._asdict() for one in part]).on_conflict_do_update(
                    index_elements=[LimitDayRow.subject, LimitDayRow.day], set_={"tokens": _positive(total)}
                )
                rows = session.execute(done.returning(LimitDayRow.subject, LimitDayRow.day, LimitDayRow.tokens))
                totals.update({(subject, day): tokens for subject, day, tokens in rows})
        return totals

    def charged(self, day: int) -> Mapping[str, int]:
        """Tokens of every subject on that day."""
        with self._database.read() as session:
            wanted = select(LimitDayRow.subject, LimitDayRow.tokens).where(LimitDayRow.day == day)
            return {subject: tokens for subject, tokens in session.execute(wanted)}

    def close(self) -> None:
        """Nothing: the database is the registry's."""

    def tidy(self, day: int) -> None:
        """Forget what can count no more: empty buckets, gateways that are gone, days long before `day`."""
        with self._database.aside() as session:
            now = _now(session)
            drained = LimitBucketRow.content <= (now - LimitBucketRow.at) * LimitBucketRow.per_second
            _delete(session, LimitBucketRow, (LimitBucketRow.subject, LimitBucketRow.kind), drained)
            gone = LimitRunningRow.until < now
            _delete(session, LimitRunningRow, (LimitRunningRow.subject, LimitRunningRow.gateway), gone)
            _delete(session, LimitDayRow, (LimitDayRow.subject, LimitDayRow.day), LimitDayRow.day < day - _KEPT_DAYS)


def _fill(session: Session, taken: list[BucketTaken], now: float) -> Mapping[tuple[str, str], float]:
    insert = _insert(session, LimitBucketRow)
    told = insert.excluded
    # A clock that was put back drains nothing twice.
    passed = _positive(told.at - LimitBucketRow.at)
    left = _positive(LimitBucketRow.content - passed * told.per_second)
    done = insert.values(
        [
            {
                "subject": one.subject,
                "kind": one.kind,
                "content": one.taken,
                "per_second": one.per_second,
                "at": now,
            }
            for one in taken
        ]
    ).on_conflict_do_update(
        index_elements=[LimitBucketRow.subject, LimitBucketRow.kind],
        set_={
            "content": _positive(left + told.content),
            "per_second": told.per_second,
            "at": LimitBucketRow.at + passed,
        },
    )
    rows = session.execute(done.returning(LimitBucketRow.subject, LimitBucketRow.kind, LimitBucketRow.content))
    return {(subject, kind): content for subject, kind, content in rows}


def _delete(session: Session, row: type[Any], key: tuple[Any, Any], which: ColumnElement[bool]) -> None:
    # What somebody else is changing right now can wait for the next time; waiting for it could be mutual.
    found = select(*key).where(which).with_for_update(skip_locked=True)
    session.execute(delete(row).where(tuple_(*key).in_(found)).execution_options(synchronize_session=False))


def _say_running(session: Session, gateway: str, running: list[Running], now: float) -> None:
    over = [one.subject for one in running if not one.requests]
    for subjects in _parts(over):
        mine = (LimitRunningRow.gateway == gateway) & LimitRunningRow.subject.in_(subjects)
        session.execute(delete(LimitRunningRow).where(mine))
    for part in _parts([one for one in running if one.requests]):
        insert = _insert(session, LimitRunningRow)
        rows = [{**one._asdict(), "gateway": gateway, "until": now + RUNNING_SECONDS} for one in part]
        session.execute(
            insert.values(rows).on_conflict_do_update(
                index_elements=[LimitRunningRow.subject, LimitRunningRow.gateway],
                set_={"requests": insert.excluded.requests, "until": insert.excluded.until},
            )
        )


def _elsewhere(session: Session, gateway: str, subjects: list[str], now: float) -> Mapping[str, int]:
    found = dict.fromkeys(subjects, 0)
    for part in _parts(subjects):
        others = (
            LimitRunningRow.subject.in_(part) & (LimitRunningRow.gateway != gateway) & (LimitRunningRow.until >= now)
        )
        counted = select(LimitRunningRow.subject, func.sum(LimitRunningRow.requests)).where(others)
        found.update(
            {subject: int(count) for subject, count in session.execute(counted.group_by(LimitRunningRow.subject))}
        )
    return found


def _now(session: Session) -> float:
    """The database's clock, seconds since 1970: SQLite's is this machine's, which all of its users share."""
    if session.get_bind().dialect.name == "sqlite":
        return time.time()
    return float(session.execute(select(func.extract("epoch", func.clock_timestamp()))).scalar_one())


def _insert(session: Session, row: type[Any]) -> Any:
    # Both dialects have the same upsert; SQLAlchemy has no name for what they share.
    dialect = sqlite if session.get_bind().dialect.name == "sqlite" else postgresql
    made: Insert = dialect.insert(row)
    return made


def _positive(value: ColumnElement[Any]) -> ColumnElement[Any]:
    return case((value > 0, value), else_=0)


def _parts(rows: list[T]) -> Iterable[list[T]]:
    return (rows[start : start + _AT_ONCE] for start in range(0, len(rows), _AT_ONCE))
