"""The registry: which adapters exist, in which versions, and where their aliases point.

Synchronous and thread-safe; async callers use `asyncio.to_thread`. It knows no bytes (the store has those)
and no judgement (`check` has that): it records facts it is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from loradock_adapters.adapter_settings import NOTHING_SAID, PIN, AdapterSettings
from loradock_adapters.errors import AdapterExists, InvalidSettings
from loradock_adapters.faults import Fault
from loradock_adapters.names import AdapterRef, validate_name
from loradock_adapters.registry import aliases, reading, versions
from loradock_adapters.registry.audit import Action, Actor, AuditTable, note
from loradock_adapters.registry.catalogue import Catalogue
from loradock_adapters.registry.conditions import IfMatch
from loradock_adapters.registry.database import Database
from loradock_adapters.registry.evaluations import EvaluationTable
from loradock_adapters.registry.keys import KeyTable
from loradock_adapters.registry.limit_counters import LimitTable
from loradock_adapters.registry.listening import Listener
from loradock_adapters.registry.operations import OperationTable
from loradock_adapters.registry.rows import open_adapter, require_adapter, touch
from loradock_adapters.registry.tables import AdapterRow, StateRow
from loradock_adapters.registry.usage import UsageLedger
from loradock_adapters.registry.usage_report import UsageReport

_UNSAID = object()


class Registry:
    """What concerns a name as a whole; `versions`, `aliases`, `keys` and the others hold the rest.

    Every method may raise RegistryError.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.versions = versions.VersionTable(database)
        self.aliases = aliases.AliasTable(database)
        self.evaluations = EvaluationTable(database)
        self.audit = AuditTable(database)
        self.keys = KeyTable(database)
        self.operations = OperationTable(database)
        self.limits = LimitTable(database)
        self.usage = UsageLedger(database)
        self.usage_report = UsageReport(database)

    @classmethod
    def open(cls, url: str) -> Registry:
        """Open an SQLAlchemy URL, creating or migrating the database. Raises RegistryError."""
        return cls(Database.open(url))

    def listen(self) -> Listener | None:
        """Hear of changes by other processes at once; None if this database cannot tell. Raises RegistryError."""
        return self._database.listen() if self._database.notifies else None

    def close(self) -> None:
        self._database.close()

    def create_adapter(self, name: str, settings: Mapping[str, Any], *, by: Actor) -> None:
        """Take a name that has no version yet, and say something of it, as `change_settings` does.

        Raises InvalidName, AdapterExists, InvalidSettings.
        """
        validate_name(name)
        said = NOTHING_SAID.patched(settings).document()
        with self._database.write() as session:
            row = session.get(AdapterRow, name)
            if row is not None and row.deleted_at is None:
                raise AdapterExists(f"there is an adapter named {name!r} already; change it, or choose another name")
            open_adapter(session, name).settings = said
            touch(session, name)
            note(session, by, Action.ADAPTER_CREATED, adapter=name, after=said)

    def pin(self, name: str, *, by: Actor, if_match: IfMatch | None = None) -> bool:
        """Have the live versions kept in memory from now on; False when they are already.

        Raises AdapterNotFound, ChangedMeanwhile.
        """
        return self._set_pin(name, datetime.now(UTC), by, if_match)

    def unpin(self, name: str, *, by: Actor, if_match: IfMatch | None = None) -> bool:
        """Let them go from memory as any others; False when it was not pinned.

        Raises AdapterNotFound, ChangedMeanwhile.
        """
        return self._set_pin(name, None, by, if_match)

    def _set_pin(self, name: str, since: datetime | None, by: Actor, if_match: IfMatch | None) -> bool:
        with self._database.write() as session:
            adapter = require_adapter(session, name)
            if if_match is not None:
                pinned = {"revision": adapter.revision, "pinned": adapter.pinned_at is not None}
                if_match.require(f"adapter {name!r}", adapter.revision, pinned)
            changed = _pin(session, adapter, since, by)
            if not changed:
                session.rollback()
        return changed

    def change_settings(
        self, name: str, patch: Mapping[str, Any], *, by: Actor, if_match: IfMatch | None = None
    ) -> bool:
        """Merge a JSON merge patch into what is said of an adapter, its pin too; False when that changes nothing.

        Raises AdapterNotFound, InvalidSettings, ChangedMeanwhile.
        """
        rest = dict(patch)
        pin = rest.pop(PIN, _UNSAID)
        if pin is not _UNSAID and pin is not None and not isinstance(pin, bool):
            fault = Fault("invalid_setting", PIN, repr(pin)[:80], "true, false or null", "give one of them")
            raise InvalidSettings((fault,))
        with self._database.write() as session:
            adapter = require_adapter(session, name)
            before = AdapterSettings.stored(adapter.settings)
            if if_match is not None:
                if_match.require(f"adapter {name!r}", adapter.revision, _said(adapter.revision, before))
            after = before.patched(rest)
            changed = after != before
            if changed:
                adapter.settings = after.document()
                touch(session, name)
                old, new = before.document(), after.document()
                names = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
                note(
                    session,
                    by,
                    Action.ADAPTER_CONFIGURED,
                    adapter=name,
                    before={name: old.get(name) for name in names},
                    after={name: new.get(name) for name in names},
                )
            if pin is not _UNSAID:
                changed |= _pin(session, adapter, datetime.now(UTC) if pin else None, by)
            if not changed:
                session.rollback()
        return changed

    def delete_adapter(self, name: str, *, by: Actor, if_match: IfMatch | None = None) -> tuple[AdapterRef, ...]:
        """Forget a name with all its versions and aliases, and return what was forgotten, oldest first.

        The name may be used again; its version numbers go on where they stopped. Raises AdapterNotFound,
        ChangedMeanwhile.
        """
        with self._database.write() as session:
            adapter = require_adapter(session, name)
            if if_match is not None:
                if_match.require(f"adapter {name!r}", adapter.revision, {"revision": adapter.revision})
            aliases.forget_all(session, name, by)
            refs = versions.delete_all(session, name, by)
            touch(session, name)
            adapter.deleted_at = datetime.now(UTC)
            adapter.pinned_at = None
            adapter.settings = {}  # whoever takes the name next starts with none
            note(session, by, Action.ADAPTER_DELETED, adapter=name)
        return tuple(refs)

    def damage(self) -> tuple[str, ...]:
        """What is wrong with the database itself, as far as it can tell."""
        return self._database.damage()

    def snapshot(self, out: Path) -> None:
        """Copy the database into a new file, as it is at one moment; others may write meanwhile. SQLite's only."""
        self._database.snapshot(out)

    def revision(self) -> int:
        """The number that grows with every change, keys included. One cheap query."""
        with self._database.read() as session:
            return session.scalars(select(StateRow.revision)).one()

    def catalogue(self, since: Catalogue | None = None) -> Catalogue:
        """Everything that is registered now, consistent in itself. With an earlier one only what changed is read."""
        with self._database.read() as session:
            return reading.catalogue(session, since or Catalogue())


def _pin(session: Session, adapter: AdapterRow, since: datetime | None, by: Actor) -> bool:
    if (adapter.pinned_at is None) == (since is None):
        return False
    adapter.pinned_at = since
    touch(session, adapter.name)
    note(session, by, Action.ADAPTER_PINNED if since else Action.ADAPTER_UNPINNED, adapter=adapter.name)
    return True


def _said(revision: int, settings: AdapterSettings) -> Mapping[str, Any]:
    return {"revision": revision, "settings": settings.document()}
