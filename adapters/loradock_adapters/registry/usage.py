"""What was used: requests and tokens by hour, API key, tenant, adapter and version, added up.

A gateway adds a batch of sums together with how far it has read the engine's feed, in one transaction; so a batch is
in the sums once, however often it is sent and whoever is killed meanwhile. It changes nothing that is registered, so
the registry's revision stays. It knows no engine, no price and no HTTP; `usage_report` reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, cast

from sqlalchemy import Insert, delete, select
from sqlalchemy import Table as SqlTable
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from loradock_adapters.registry.audit import Action, Actor, note
from loradock_adapters.registry.database import Database
from loradock_adapters.registry.tables import UsagePositionRow, UsageRow

HOUR_SECONDS = 3600
MAX_TEXT = 255
"""Characters that are kept of a key's id and of a tenant's name."""

# A gateway that was away for longer finds an engine that has forgotten its records anyway.
_POSITIONS_KEPT = timedelta(days=30)
_PRUNED_HOURS = 24


class Account(NamedTuple):
    """Who used what when. `hour` counts from 1970 in UTC; the base model is the adapter `base` with version 0."""

    hour: int
    key_id: str
    tenant: str
    adapter: str
    version: int


@dataclass(slots=True)
class Sums:
    """Counts. `errors` are requests that the engine refused, `aborted` those that ended early; `cached_tokens` are
    part of `input_tokens`.
    """

    requests: int = 0
    errors: int = 0
    aborted: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0

    def add(self, other: Sums) -> None:
        for name in COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))


COUNTS = tuple(Sums.__slots__)


@dataclass(frozen=True, slots=True)
class Position:
    """How far a gateway has read: the record `seq` of the engine process `generation`, and all before it."""

    generation: str
    seq: int


class UsageLedger:
    """The registry's sums; thread-safe. Every method may raise RegistryError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def position(self, gateway: str) -> Position | None:
        """How far what this gateway read is in the sums; None if nothing ever was."""
        with self._database.read() as session:
            return _position(session.get(UsagePositionRow, gateway))

    def add(
        self, gateway: str, sums: Mapping[Account, Sums], *, since: Position | None, until: Position
    ) -> Position | None:
        """Add what `gateway` read after `since`, up to and with `until`, unless it is in already.

        Returns where the database stands now: `until`; or elsewhere, and then nothing was added, because somebody else
        counts under this id or the database is an older copy. Then the feed must be read again from there.
        """
        with self._database.aside() as session:
            # On PostgreSQL the row is the lock; SQLite has one writer.
            row = session.get(UsagePositionRow, gateway, with_for_update=True)
            stands = _position(row)
            if stands != since:
                session.rollback()
                return stands
            now = datetime.now(UTC)
            if row is None:
                old = UsagePositionRow.updated_at < now - _POSITIONS_KEPT
                session.execute(delete(UsagePositionRow).where(old))
                row = UsagePositionRow(gateway=gateway)
                session.add(row)
            row.generation, row.seq, row.updated_at = until.generation, until.seq, now
            session.flush()  # two that begin under one id at the same moment part here
            if sums:
                # In one order for all, or two gateways could wait for each other's rows.
                session.execute(_upsert(session), [_values(account, sums[account]) for account in sorted(sums)])
        return until

    def prune(self, before: datetime, *, by: Actor) -> int:
        """Forget the hours that ended before `before` (UTC); returns how many rows went."""
        end, gone = hour_of(before), 0
        while True:
            # A day at a time: on SQLite nobody else writes meanwhile.
            with self._database.aside() as session:
                first = session.scalar(select(UsageRow.hour).order_by(UsageRow.hour).limit(1))
                if first is None or first >= end:
                    note(session, by, Action.USAGE_PRUNED, after={"before": hour_start(end).isoformat(), "rows": gone})
                    return gone
                away = delete(UsageRow).where(UsageRow.hour < min(end, first + _PRUNED_HOURS))
                gone += len(session.execute(away.returning(UsageRow.hour)).all())


def hour_of(when: datetime) -> int:
    """The hour in which an aware moment lies."""
    return int(when.timestamp() // HOUR_SECONDS)


def hour_start(hour: int) -> datetime:
    """When an hour begins, in UTC."""
    return datetime.fromtimestamp(hour * HOUR_SECONDS, UTC)


def _position(row: UsagePositionRow | None) -> Position | None:
    return None if row is None else Position(row.generation, row.seq)


def _values(account: Account, sums: Sums) -> dict[str, object]:
    return account._asdict() | {name: getattr(sums, name) for name in COUNTS}


def _upsert(session: Session) -> Insert:
    table = cast(SqlTable, UsageRow.__table__)
    keys = list(table.primary_key.columns)
    if session.get_bind().dialect.name == "postgresql":
        in_postgres = postgresql.insert(table)
        return in_postgres.on_conflict_do_update(
            index_elements=keys, set_={n: table.c[n] + in_postgres.excluded[n] for n in COUNTS}
        )
    in_sqlite = sqlite.insert(table)
    return in_sqlite.on_conflict_do_update(
        index_elements=keys, set_={n: table.c[n] + in_sqlite.excluded[n] for n in COUNTS}
    )
