"""Evaluations attached to versions, and the gate's question to them inside a promotion's transaction.

They stay with their version as long as it is there; a newer one of the same task counts instead of an older one. It
knows no bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from loradock_adapters.errors import EvaluationNotFound, GateRefused
from loradock_adapters.evaluation import Evaluation
from loradock_adapters.names import AdapterRef
from loradock_adapters.promotion_gate import Measured, Objection, PromotionGate
from loradock_adapters.registry.audit import Action, Actor, note
from loradock_adapters.registry.database import Database
from loradock_adapters.registry.rows import require_version
from loradock_adapters.registry.splits import Split
from loradock_adapters.registry.tables import EvaluationRow

MAX_PAGE = 100
"""Documents are large. Of a version's evaluations the gate looks at the latest so many, too."""


@dataclass(frozen=True, slots=True)
class EvaluationRecord:
    """One evaluation of a version; `id` grows, the time is UTC."""

    id: int
    ref: AdapterRef
    evaluation: Evaluation
    created_at: datetime
    created_by: str


@dataclass(frozen=True, slots=True)
class Gate:
    """A gate in a promotion's way. `forced`: the reason for which its objections do not count, for the audit."""

    rules: PromotionGate
    forced: str | None = None

    def judge(self, session: Session, name: str, before: Split | None, after: Split) -> Mapping[str, Any]:
        """Inside somebody's transaction: what the audit is to say beside the change. Raises GateRefused.

        Judged is every version whose share grows, beside the heaviest of the others that answered before.
        """
        found: list[Objection] = []
        for version in _growing(before, after):
            rivals = [part for part in (before.parts if before else ()) if part[0] != version]
            live = None
            if rivals:
                number = max(rivals, key=lambda part: (part[1], part[0]))[0]
                live = _measured(session, AdapterRef(name, number))
            found += self.rules.objections(_measured(session, AdapterRef(name, version)), live)
        if not found:
            return {}
        if self.forced is None:
            raise GateRefused(tuple(found))
        return {"forced": {"reason": self.forced, "against": [objection.text for objection in found]}}


class EvaluationTable:
    """The registry's evaluations; thread-safe. Every method may raise RegistryError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def attach(self, ref: AdapterRef, evaluation: Evaluation, *, by: Actor) -> EvaluationRecord:
        """Raises AdapterNotFound, VersionNotFound."""
        with self._database.write() as session:
            require_version(session, ref)
            row = EvaluationRow(
                name=ref.name,
                version=ref.version,
                task=evaluation.task,
                document=dict(evaluation.document),
                created_at=datetime.now(UTC),
                created_by=by.name,
            )
            session.add(row)
            session.flush()
            after = {"task": evaluation.task, "metrics": dict(evaluation.metrics), "evaluation": row.id}
            note(session, by, Action.VERSION_EVALUATED, ref=ref, after=after)
            return _record(row)

    def page(self, ref: AdapterRef, *, before_id: int | None = None, limit: int = 50) -> list[EvaluationRecord]:
        """The newest first, and only those older than `before_id`. Raises AdapterNotFound, VersionNotFound."""
        wanted = _of(ref).order_by(EvaluationRow.id.desc()).limit(max(1, min(limit, MAX_PAGE)))
        if before_id is not None:
            wanted = wanted.where(EvaluationRow.id < before_id)
        with self._database.read() as session:
            require_version(session, ref)
            return [_record(row) for row in session.scalars(wanted)]

    def get(self, ref: AdapterRef, number: int) -> EvaluationRecord:
        """Raises AdapterNotFound, VersionNotFound, EvaluationNotFound."""
        with self._database.read() as session:
            require_version(session, ref)
            row = session.scalar(_of(ref).where(EvaluationRow.id == number))
            if row is None:
                raise EvaluationNotFound(f"{ref} has no evaluation {number}")
            return _record(row)


def _growing(before: Split | None, after: Split) -> list[int]:
    old = _shares(before) if before else {}
    return [version for version, share in _shares(after).items() if share > old.get(version, 0.0)]


def _shares(split: Split) -> dict[int, float]:
    total = sum(weight for _, weight in split.parts)
    return {version: weight / total for version, weight in split.parts}


def _measured(session: Session, ref: AdapterRef) -> Measured:
    rows = session.scalars(_of(ref).order_by(EvaluationRow.id.desc()).limit(MAX_PAGE)).all()
    return Measured(ref, [Evaluation.read(row.document) for row in reversed(rows)])


def _of(ref: AdapterRef) -> Any:
    # Any, because a Select's type lists its columns.
    return select(EvaluationRow).where(EvaluationRow.name == ref.name, EvaluationRow.version == ref.version)


def _record(row: EvaluationRow) -> EvaluationRecord:
    ref = AdapterRef(row.name, row.version)
    return EvaluationRecord(row.id, ref, Evaluation.read(row.document), row.created_at, row.created_by)
