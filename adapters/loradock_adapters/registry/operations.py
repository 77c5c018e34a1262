"""Work that outlives the request that asked for it: how far it is, how it ended, and under which key it was asked for.

Kept in the database so that any gateway can tell of it. Whoever runs one counts its `beat` up; where that stands still
the runner is gone, which each observer judges by a clock of his own. It knows no work and no HTTP: an answer is a JSON
object that it keeps.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import delete, select, tuple_, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from loradock_adapters.errors import ClaimReused, OperationNotFound
from loradock_adapters.registry.audit import Actor
from loradock_adapters.registry.database import Database
from loradock_adapters.registry.tables import OperationRow

MAX_PAGE = 1000
KEPT_FOR = timedelta(days=7)  # after its end, with the key it was claimed by


class OperationState(StrEnum):
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Claim:
    """A client's word that this is one piece of work however often it asks: `key`, and the SHA-256 of what it asks."""

    key: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Operation:
    """One piece of work; times are UTC. `done` of `total` (None: unknown) belong to the stage. `answer` is there once
    it ended, None when nobody was left to give one.
    """

    id: str
    kind: str
    adapter: str
    state: OperationState
    stage: str
    done: int
    total: int | None
    actor: Actor
    created_at: datetime
    updated_at: datetime
    finished_at: datetime | None
    answer: Mapping[str, Any] | None

    @property
    def running(self) -> bool:
        return self.state is OperationState.RUNNING


@dataclass(frozen=True, slots=True)
class Begun:
    """`created` is False when the claim was made before: then it is that operation, running or over."""

    operation: Operation
    created: bool


@dataclass(frozen=True, slots=True)
class Sign:
    """A running operation's sign of life: the number grows as long as `runner` lives."""

    id: str
    runner: str
    beat: int


class OperationTable:
    """The registry's operations; thread-safe. Every method may raise RegistryError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, kind: str, adapter: str, *, runner: str, by: Actor, claim: Claim | None = None) -> Begun:
        """Open an operation that `runner` is about to work on. Raises ClaimReused when the same caller used the claim's
        key for something else.
        """
        with self._database.aside() as session:
            over = OperationRow.finished_at.is_not(None) & (OperationRow.finished_at < datetime.now(UTC) - KEPT_FOR)
            session.execute(delete(OperationRow).where(over))
            if claim is not None and (row := _claimed(session, claim, by)) is not None:
                return Begun(_operation(row), created=False)
            row = _new(kind, adapter, runner, by, claim)
            session.add(row)
            try:
                session.flush()
            except IntegrityError:  # the same claim, made at the same moment
                session.rollback()
                if claim is None or (row_there := _claimed(session, claim, by)) is None:
                    raise
                return Begun(_operation(row_there), created=False)
            return Begun(_operation(row), created=True)

    def tell(self, id: str, stage: str, done: int, total: int | None) -> None:
        """How far a running operation is; a sign of life too. Nothing for one that is over."""
        with self._database.aside() as session:
            session.execute(
                update(OperationRow)
                .where(OperationRow.id == id, OperationRow.state == OperationState.RUNNING)
                .values(stage=stage, done=done, total=total, beat=OperationRow.beat + 1, updated_at=datetime.now(UTC))
            )

    def finish(self, id: str, *, succeeded: bool, answer: Mapping[str, Any] | None, final: bool) -> None:
        """It is over, whatever others believed. Only a `final` answer goes on being given for its claim; after another
        one the same work may be asked for again.
        """
        now = datetime.now(UTC)
        with self._database.aside() as session:
            row = session.get(OperationRow, id)
            if row is None:
                return
            row.state = OperationState.SUCCEEDED if succeeded else OperationState.FAILED
            row.answer = None if answer is None else dict(answer)
            row.updated_at = row.finished_at = now
            if not final:
                row.idempotency_key = None

    def get(self, id: str) -> Operation:
        """Raises OperationNotFound."""
        with self._database.read() as session:
            return _operation(_require(session, id))

    def page(self, *, after: str | None = None, limit: int = 50) -> list[Operation]:
        """The newest first, and only those older than `after`. Raises OperationNotFound for an `after` there is not."""
        when = tuple_(OperationRow.created_at, OperationRow.id)
        wanted = select(OperationRow).order_by(OperationRow.created_at.desc(), OperationRow.id.desc())
        with self._database.read() as session:
            if after is not None:
                last = _require(session, after)
                wanted = wanted.where(when < tuple_(last.created_at, last.id))
            return [_operation(row) for row in session.scalars(wanted.limit(max(1, min(limit, MAX_PAGE))))]

    def running(self) -> list[Sign]:
        """The signs of life of all that are not over."""
        with self._database.read() as session:
            wanted = select(OperationRow.id, OperationRow.runner, OperationRow.beat)
            rows = session.execute(wanted.where(OperationRow.state == OperationState.RUNNING)).all()
            return [Sign(*row) for row in rows]

    def lose(self, sign: Sign, answer: Mapping[str, Any]) -> bool:
        """Its runner is gone: it failed, unless there was a sign of life since this one. False then."""
        now = datetime.now(UTC)
        with self._database.aside() as session:
            lost = session.execute(
                update(OperationRow)
                .where(
                    OperationRow.id == sign.id,
                    OperationRow.state == OperationState.RUNNING,
                    OperationRow.beat == sign.beat,
                )
                .values(
                    state=OperationState.FAILED,
                    answer=dict(answer),
                    updated_at=now,
                    finished_at=now,
                    idempotency_key=None,
                )
                .returning(OperationRow.id)
            )
            return lost.first() is not None


def _claimed(session: Session, claim: Claim, by: Actor) -> OperationRow | None:
    row = session.scalar(
        select(OperationRow).where(OperationRow.key_id == by.key, OperationRow.idempotency_key == claim.key)
    )
    if row is not None and row.fingerprint != claim.fingerprint:
        raise ClaimReused(
            f"the idempotency key {claim.key[:80]!r} was used for something else (operation {row.id}); "
            "take a new key for a new request"
        )
    return row


def _new(kind: str, adapter: str, runner: str, by: Actor, claim: Claim | None) -> OperationRow:
    now = datetime.now(UTC)
    return OperationRow(
        id=f"op-{secrets.token_hex(8)}",
        kind=kind,
        adapter=adapter,
        state=OperationState.RUNNING,
        stage="",
        done=0,
        total=None,
        runner=runner,
        beat=0,
        actor=by.name,
        key_id=by.key,
        origin=by.origin,
        created_at=now,
        updated_at=now,
        finished_at=None,
        idempotency_key=None if claim is None else claim.key,
        fingerprint=None if claim is None else claim.fingerprint,
        answer=None,
    )


def _require(session: Session, id: str) -> OperationRow:
    row = session.get(OperationRow, id)
    if row is None:
        raise OperationNotFound(
            f"there is no operation {id[:80]!r}; list them with `loradock adapters operations` "
            f"(they are kept for {KEPT_FOR.days} days)"
        )
    return row


def _operation(row: OperationRow) -> Operation:
    return Operation(
        id=row.id,
        kind=row.kind,
        adapter=row.adapter,
        state=OperationState(row.state),
        stage=row.stage,
        done=row.done,
        total=row.total,
        actor=Actor(row.actor, row.key_id, row.origin),
        created_at=row.created_at,
        updated_at=row.updated_at,
        finished_at=row.finished_at,
        answer=row.answer,
    )
