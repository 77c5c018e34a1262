"""Versions and their states: one method for each step of a version's life, each one transaction with its audit event.

A step that was made already, by a registration of the same bytes beside this one, changes nothing. It knows no bytes:
the store has those, and whoever calls says what was found.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from loradock_adapters.errors import AdapterConflict, VersionInUse
from loradock_adapters.names import LIVE, AdapterRef, validate_alias, validate_name
from loradock_adapters.registry import aliases
from loradock_adapters.registry.audit import Action, Actor, note
from loradock_adapters.registry.catalogue import VersionFacts
from loradock_adapters.registry.conditions import IfMatch
from loradock_adapters.registry.database import Database
from loradock_adapters.registry.evaluations import Gate
from loradock_adapters.registry.rows import open_adapter, require_adapter, require_version, touch
from loradock_adapters.registry.splits import Split
from loradock_adapters.registry.states import MAY_FOLLOW, VersionState
from loradock_adapters.registry.tables import VersionRow
from loradock_adapters.signing import Signature

_ACTIONS = {
    VersionState.STAGED: Action.VERSION_STAGED,
    VersionState.VERIFIED: Action.VERSION_VERIFIED,
    VersionState.READY: Action.VERSION_READY,
    VersionState.RETIRED: Action.VERSION_RETIRED,
    VersionState.FAILED: Action.VERSION_FAILED,
    VersionState.DELETED: Action.VERSION_DELETED,
}


@dataclass(frozen=True, slots=True)
class Staged:
    """`created` is False when these bytes already were a version of the name; `ready`: one that may answer."""

    ref: AdapterRef
    created: bool
    ready: bool = False


class VersionTable:
    """The registry's versions; thread-safe. Every method may raise RegistryError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def stage(self, name: str, facts: VersionFacts, *, by: Actor) -> Staged:
        """Give these bytes, which are in the store, the next number. The same bytes keep theirs; of a failed version
        they are staged anew. A signature that comes with them takes the place of the one they had.

        Raises InvalidName, and AdapterConflict for the bytes of a retired version.
        """
        validate_name(name)
        with self._database.write() as session:
            found = session.scalar(
                select(VersionRow).where(
                    VersionRow.name == name,
                    VersionRow.digest == facts.digest,
                    VersionRow.state != VersionState.DELETED,
                )
            )
            if found is None:
                ref = _add_version(session, name, facts, by)
                return Staged(ref, created=True)
            ref = _ref(found)
            if found.state == VersionState.RETIRED:
                raise AdapterConflict(
                    f"these bytes are {ref}, which is retired; delete that version and register them again"
                )
            signed = _sign(session, found, facts, by)
            if found.state == VersionState.FAILED:
                _move(session, found, VersionState.STAGED, by)
                return Staged(ref, created=True)
            if not signed:
                session.rollback()
            return Staged(ref, created=False, ready=found.state == VersionState.READY)

    def verify(self, ref: AdapterRef, *, by: Actor) -> None:
        """The store gave back the bytes that were judged. Raises VersionNotFound, AdapterConflict."""
        self._advance(ref, VersionState.VERIFIED, by, reached={VersionState.VERIFIED, VersionState.READY})

    def make_ready(self, ref: AdapterRef, *, by: Actor, alias: str | None = LIVE, gate: Gate | None = None) -> None:
        """From now on it may answer; together with that, an alias points to it. Without one it is asked for by number.

        `gate` has its word where the alias is `live`. Raises InvalidName, VersionNotFound, AdapterConflict,
        GateRefused; then nothing has changed.
        """
        if alias is not None:
            validate_alias(alias)
        with self._database.write() as session:
            row = require_version(session, ref)
            changed = row.state != VersionState.READY
            if changed:
                _move(session, row, VersionState.READY, by)
            if alias is not None:
                changed |= aliases.point(session, ref.name, alias, Split.to(ref.version), by, gate)
            if not changed:
                session.rollback()

    def fail(self, ref: AdapterRef, reason: str, *, by: Actor) -> None:
        """It cannot be served, and why. Aliases that point to it go on doing so and answer with an error.

        Raises VersionNotFound, AdapterConflict.
        """
        self._advance(ref, VersionState.FAILED, by, reached={VersionState.FAILED}, reason=reason)

    def retire(self, ref: AdapterRef, *, by: Actor, if_match: IfMatch | None = None) -> bool:
        """Take it out of service; False if it was already.

        Raises AdapterNotFound, VersionNotFound, VersionInUse, AdapterConflict, ChangedMeanwhile.
        """
        return self._end(ref, VersionState.RETIRED, by, if_match)

    def delete(self, ref: AdapterRef, *, by: Actor, if_match: IfMatch | None = None) -> None:
        """Forget it; its number is never used again and its bytes may go.

        Raises AdapterNotFound, VersionNotFound, VersionInUse, ChangedMeanwhile.
        """
        self._end(ref, VersionState.DELETED, by, if_match)

    def digests(self, deleted_after: datetime) -> frozenset[str]:
        """The bytes of every version that is not deleted, or was only after this moment."""
        with self._database.read() as session:
            return frozenset(session.scalars(select(VersionRow.digest).where(_needs_bytes(deleted_after))))

    def release(self, digest: str, deleted_after: datetime, remove: Callable[[], object]) -> bool:
        """Call `remove` unless these bytes are among `digests`; no version begins to refer to them meanwhile.

        Returns whether it was called; raises what it raises.
        """
        with self._database.write() as session:
            user = select(VersionRow.number).where(VersionRow.digest == digest, _needs_bytes(deleted_after)).limit(1)
            needed = session.scalar(user) is not None
            if not needed:
                remove()
            session.rollback()
        return not needed

    def _advance(
        self, ref: AdapterRef, to: VersionState, by: Actor, *, reached: set[VersionState], reason: str | None = None
    ) -> None:
        with self._database.write() as session:
            row = require_version(session, ref)
            if row.state in reached:
                session.rollback()
                return
            _move(session, row, to, by, reason)

    def _end(self, ref: AdapterRef, to: VersionState, by: Actor, if_match: IfMatch | None) -> bool:
        with self._database.write() as session:
            adapter = require_adapter(session, ref.name)
            if if_match is not None:
                if_match.require(f"adapter {ref.name!r}", adapter.revision, {"revision": adapter.revision})
            row = require_version(session, ref)
            users = aliases.pointing_to(session, ref)
            if users:
                raise VersionInUse(
                    f"{ref} is what the alias {', '.join(users)} points to; "
                    f"let it point elsewhere first: loradock adapters promote {ref.name} VERSION --alias {users[0]}"
                )
            if row.state == to:
                session.rollback()
                return False
            _move(session, row, to, by)
            return True


def _needs_bytes(deleted_after: datetime) -> ColumnElement[bool]:
    return (VersionRow.state != VersionState.DELETED) | (VersionRow.state_since > deleted_after)


def delete_all(session: Session, name: str, by: Actor) -> list[AdapterRef]:
    """Delete every version of a name whose aliases are gone, oldest first, inside somebody's transaction."""
    rows = session.scalars(
        select(VersionRow)
        .where(VersionRow.name == name, VersionRow.state != VersionState.DELETED)
        .order_by(VersionRow.number)
    ).all()
    for row in rows:
        _move(session, row, VersionState.DELETED, by)
    return [_ref(row) for row in rows]


def _move(session: Session, row: VersionRow, to: VersionState, by: Actor, reason: str | None = None) -> None:
    before = VersionState(row.state)
    if to not in MAY_FOLLOW[before]:
        raise AdapterConflict(f"{_ref(row)} is {before}; it cannot become {to}")
    row.state, row.state_reason, row.state_since = to, reason, datetime.now(UTC)
    touch(session, row.name)
    after = {"state": to.value} | ({"reason": reason} if reason else {})
    note(session, by, _ACTIONS[to], ref=_ref(row), before={"state": before.value}, after=after)


def _add_version(session: Session, name: str, facts: VersionFacts, by: Actor) -> AdapterRef:
    now = datetime.now(UTC)
    adapter = open_adapter(session, name)
    version = VersionRow(
        name=name,
        number=adapter.next_version,
        digest=facts.digest,
        size_bytes=facts.size_bytes,
        rank=facts.rank,
        target_modules=list(facts.target_modules),
        base_digest=facts.base_digest,
        source=facts.source,
        manifest=dict(facts.manifest),
        signature=facts.signature and facts.signature.text,
        created_at=now,
        created_by=by.name,
        state=VersionState.STAGED,
        state_reason=None,
        state_since=now,
    )
    adapter.next_version += 1
    session.flush()
    touch(session, name)
    session.add(version)
    session.flush()
    after = {"state": version.state, "digest": facts.digest, "source": facts.source}
    note(session, by, Action.VERSION_STAGED, ref=_ref(version), after=after)
    return _ref(version)


def _sign(session: Session, row: VersionRow, facts: VersionFacts, by: Actor) -> bool:
    """Note who signed the bytes that are there; False when nothing is new."""
    if facts.signature is None or facts.signature.text == row.signature:
        return False
    before = None if row.signature is None else {"public_key": Signature.parse(row.signature).key_text}
    row.signature = facts.signature.text
    touch(session, row.name)
    after = {"public_key": facts.signature.key_text}
    note(session, by, Action.VERSION_SIGNED, ref=_ref(row), before=before, after=after)
    return True


def _ref(row: VersionRow) -> AdapterRef:
    return AdapterRef(row.name, row.number)
