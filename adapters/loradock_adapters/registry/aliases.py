"""Aliases: where they point, where they pointed before, and the way back.

Every change is a step that remembers the one before it; a rollback goes back to that. It knows no traffic: which
version of a split a request gets is the splits' and the gateway's business.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from loradock_adapters.errors import AdapterConflict, AliasNotFound
from loradock_adapters.names import LIVE, AdapterRef, validate_alias
from loradock_adapters.registry.audit import Action, Actor, note
from loradock_adapters.registry.conditions import IfMatch
from loradock_adapters.registry.database import Database
from loradock_adapters.registry.evaluations import Gate
from loradock_adapters.registry.rows import require_adapter, require_version, touch
from loradock_adapters.registry.splits import Split
from loradock_adapters.registry.states import VersionState
from loradock_adapters.registry.steps import split_at, way_back
from loradock_adapters.registry.tables import AliasRow, AliasStepRow, AliasTargetRow, VersionRow


class AliasTable:
    """The registry's aliases; thread-safe. Every method may raise RegistryError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def set(
        self,
        name: str,
        alias: str,
        split: Split,
        *,
        by: Actor,
        if_match: IfMatch | None = None,
        gate: Gate | None = None,
    ) -> bool:
        """Point an alias, a new one too, to ready versions; False when it already points so.

        `gate` has its word where the alias is `live`. Raises InvalidName, AdapterNotFound, VersionNotFound,
        AdapterConflict, GateRefused, ChangedMeanwhile.
        """
        validate_alias(alias)
        with self._database.write() as session:
            require_adapter(session, name)
            _require_match(session, name, alias, if_match)
            moved = point(session, name, alias, split, by, gate)
            if not moved:
                session.rollback()
        return moved

    def rollback(self, name: str, alias: str = LIVE, *, by: Actor, if_match: IfMatch | None = None) -> Split:
        """Back to where the alias pointed before; done again, one step further back. Targets of which a version cannot
        answer any more are passed over.

        Raises InvalidName, AdapterNotFound, AliasNotFound, ChangedMeanwhile, and AdapterConflict when there is no
        earlier target that can answer.
        """
        validate_alias(alias)
        with self._database.write() as session:
            require_adapter(session, name)
            _require_match(session, name, alias, if_match)
            row = _require_alias(session, name, alias)
            back = way_back(session, row, lambda version: _is_ready(session, name, version))
            if back.step is None or back.split is None:
                raise AdapterConflict(_no_way_back(session, name, alias, back.passed))
            before, after = split_at(session, name, alias, row.step), back.split
            row.step = back.step
            _mark(session, row, by)
            note(
                session,
                by,
                Action.ALIAS_ROLLED_BACK,
                adapter=name,
                alias=alias,
                before=before.as_dict(),
                after=after.as_dict(),
            )
        return after

    def mend(self, name: str, alias: str, *, by: Actor) -> Split | None:
        """Leave out what cannot answer; if nothing is left, back to the nearest earlier target that can; else forget
        the alias. Returns where it points now. Raises AdapterNotFound, AliasNotFound.
        """
        with self._database.write() as session:
            require_adapter(session, name)
            row = _require_alias(session, name, alias)
            _drop_lost_targets(session, name, alias)
            left = {v: w for v, w in split_at(session, name, alias, row.step).parts if _is_ready(session, name, v)}
            if left:
                point(session, name, alias, Split.of(left), by)
                return Split.of(left)
            step: int | None = row.step
            while step is not None:
                split = split_at(session, name, alias, step)
                if split.parts and all(_is_ready(session, name, version) for version in split.versions):
                    point(session, name, alias, split, by)
                    return split
                step = session.get_one(AliasStepRow, (name, alias, step)).parent
            _forget(session, row, by)
            return None

    def remove(self, name: str, alias: str, *, by: Actor, if_match: IfMatch | None = None) -> None:
        """Forget an alias. Raises InvalidName, AdapterNotFound, AliasNotFound, ChangedMeanwhile."""
        validate_alias(alias)
        with self._database.write() as session:
            require_adapter(session, name)
            _require_match(session, name, alias, if_match)
            _forget(session, _require_alias(session, name, alias), by)


def point(session: Session, name: str, alias: str, split: Split, by: Actor, gate: Gate | None = None) -> bool:
    """Inside somebody's transaction: let the alias point there; False when it does. Raises GateRefused."""
    row = session.get(AliasRow, (name, alias))
    before = None if row is None else split_at(session, name, alias, row.step)
    if before == split:
        return False
    _require_ready(session, name, split)
    more = gate.judge(session, name, before, split) if gate is not None and alias == LIVE else {}
    last = select(func.max(AliasStepRow.step)).where(AliasStepRow.name == name, AliasStepRow.alias == alias)
    step = (session.scalar(last) or 0) + 1
    now = datetime.now(UTC)
    session.add(
        AliasStepRow(
            name=name,
            alias=alias,
            step=step,
            parent=None if row is None else row.step,
            created_at=now,
            created_by=by.name,
        )
    )
    session.flush()  # in the order of the foreign keys
    for version, weight in split.parts:
        session.add(AliasTargetRow(name=name, alias=alias, step=step, version=version, weight=weight))
    row = row or AliasRow(name=name, alias=alias)
    row.step = step
    _mark(session, row, by)
    session.add(row)
    earlier = None if before is None else before.as_dict()
    note(session, by, Action.ALIAS_SET, adapter=name, alias=alias, before=earlier, after={**split.as_dict(), **more})
    return True


def forget_all(session: Session, name: str, by: Actor) -> None:
    """Inside somebody's transaction: forget every alias of a name."""
    for row in session.scalars(select(AliasRow).where(AliasRow.name == name)).all():
        _forget(session, row, by)


def pointing_to(session: Session, ref: AdapterRef) -> list[str]:
    """The aliases that point to a version now, sorted."""
    found = session.scalars(
        select(AliasRow.alias)
        .join(AliasTargetRow, _at_its_step())
        .where(AliasRow.name == ref.name, AliasTargetRow.version == ref.version)
    )
    return sorted(found)


def _at_its_step() -> Any:
    return (
        (AliasTargetRow.name == AliasRow.name)
        & (AliasTargetRow.alias == AliasRow.alias)
        & (AliasTargetRow.step == AliasRow.step)
    )


def _mark(session: Session, row: AliasRow, by: Actor) -> None:
    row.revision = touch(session, row.name)
    row.changed_at, row.changed_by = datetime.now(UTC), by.name


def _forget(session: Session, row: AliasRow, by: Actor) -> None:
    before = split_at(session, row.name, row.alias, row.step)
    session.delete(row)
    touch(session, row.name)
    note(session, by, Action.ALIAS_DELETED, adapter=row.name, alias=row.alias, before=before.as_dict())


def _require_alias(session: Session, name: str, alias: str) -> AliasRow:
    row = session.get(AliasRow, (name, alias))
    if row is None:
        raise AliasNotFound(f"adapter {name!r} has no alias {alias!r}")
    return row


def _require_match(session: Session, name: str, alias: str, if_match: IfMatch | None) -> None:
    if if_match is None:
        return
    row = session.get(AliasRow, (name, alias))
    if row is None:
        if_match.require(f"{name}@{alias}", None, None)
    else:
        if_match.require(f"{name}@{alias}", row.revision, _state(session, row))


def _no_way_back(session: Session, name: str, alias: str, passed: tuple[Split, ...]) -> str:
    promote = f"name a version: loradock adapters promote {name} VERSION --alias {alias}"
    if not passed:
        return f"{name}@{alias} has pointed to nothing else before; {promote}"
    versions = sorted({version for split in passed for version in split.versions}, reverse=True)
    lost = [version for version in versions if not _is_ready(session, name, version)]
    states = ", ".join(f"{AdapterRef(name, version)} is {_state_of(session, name, version)}" for version in lost[:10])
    return f"nothing to which {name}@{alias} pointed before can answer any more ({states or 'lost'}); {promote}"


def _state_of(session: Session, name: str, version: int) -> str:
    row = session.get(VersionRow, (name, version))
    return "lost" if row is None else row.state


def _state(session: Session, row: AliasRow) -> Mapping[str, Any]:
    return {
        **split_at(session, row.name, row.alias, row.step).as_fields(),
        "revision": row.revision,
        "changed_at": row.changed_at.isoformat(),
        "changed_by": row.changed_by,
    }


def _drop_lost_targets(session: Session, name: str, alias: str) -> None:
    """Targets whose version has no row: nothing of ours makes such, and no foreign key lets one in."""
    known = select(VersionRow.number).where(VersionRow.name == name)
    session.execute(
        delete(AliasTargetRow).where(
            AliasTargetRow.name == name, AliasTargetRow.alias == alias, AliasTargetRow.version.not_in(known)
        )
    )


def _is_ready(session: Session, name: str, version: int) -> bool:
    row = session.get(VersionRow, (name, version))
    return row is not None and row.state == VersionState.READY


def _require_ready(session: Session, name: str, split: Split) -> None:
    for version in split.versions:
        ref = AdapterRef(name, version)
        row = require_version(session, ref)
        if row.state != VersionState.READY:
            raise AdapterConflict(f"{ref} is {row.state}; an alias can point to versions that are ready")
