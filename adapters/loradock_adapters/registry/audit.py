"""Who did what to the registry, when, from where, and what was there before and after.

An event is written in the transaction that makes the change, so there is never one without the other. It records;
it decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from loradock_adapters.names import AdapterRef
from loradock_adapters.registry.database import Database
from loradock_adapters.registry.tables import AuditRow

MAX_PAGE = 1000
MAX_ID = 2**63 - 1  # what a database's largest integer holds


@dataclass(frozen=True, slots=True)
class Actor:
    """Who asks for a change: a name to show, the id of the key it came with, and where from (an address)."""

    name: str
    key: str = ""
    origin: str = ""


class Action(StrEnum):
    """What can happen."""

    VERSION_STAGED = "version.staged"
    VERSION_VERIFIED = "version.verified"
    VERSION_READY = "version.ready"
    VERSION_RETIRED = "version.retired"
    VERSION_FAILED = "version.failed"
    VERSION_DELETED = "version.deleted"
    VERSION_SIGNED = "version.signed"
    VERSION_EVALUATED = "version.evaluated"
    ALIAS_SET = "alias.set"
    ALIAS_ROLLED_BACK = "alias.rolled_back"
    ALIAS_DELETED = "alias.deleted"
    ADAPTER_CREATED = "adapter.created"
    ADAPTER_PINNED = "adapter.pinned"
    ADAPTER_UNPINNED = "adapter.unpinned"
    ADAPTER_CONFIGURED = "adapter.configured"
    ADAPTER_DELETED = "adapter.deleted"
    STORE_COLLECTED = "store.collected"
    KEY_CREATED = "key.created"
    KEY_CHANGED = "key.changed"
    KEY_ROTATED = "key.rotated"
    KEY_REVOKED = "key.revoked"
    USAGE_PRUNED = "usage.pruned"


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """One event; `id` grows, `at` is UTC. `before` and `after` are None where there was or is nothing."""

    id: int
    at: datetime
    actor: Actor
    action: str
    adapter: str | None
    version: int | None
    alias: str | None
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None


class AuditTable:
    """The registry's events; thread-safe. May raise RegistryError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, by: Actor, action: Action, *, after: Mapping[str, Any]) -> None:
        """An event of something that is not in the registry itself."""
        with self._database.write() as session:
            note(session, by, action, after=after)

    def page(self, *, adapter: str | None = None, before_id: int | None = None, limit: int = 50) -> list[AuditEvent]:
        """The newest events first, of one adapter if it is named, and only those older than `before_id`."""
        wanted = select(AuditRow).order_by(AuditRow.id.desc()).limit(max(1, min(limit, MAX_PAGE)))
        if adapter is not None:
            wanted = wanted.where(AuditRow.adapter == adapter)
        if before_id is not None:
            wanted = wanted.where(AuditRow.id < before_id)
        with self._database.read() as session:
            return [_event(row) for row in session.scalars(wanted)]


def note(
    session: Session,
    by: Actor,
    action: Action,
    *,
    ref: AdapterRef | None = None,
    adapter: str | None = None,
    alias: str | None = None,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
) -> None:
    """Add an event to the transaction."""
    session.add(
        AuditRow(
            at=datetime.now(UTC),
            actor=by.name,
            key_id=by.key,
            origin=by.origin,
            action=action.value,
            adapter=ref.name if ref is not None else adapter,
            version=None if ref is None else ref.version,
            alias=alias,
            before=None if before is None else dict(before),
            after=None if after is None else dict(after),
        )
    )


def _event(row: AuditRow) -> AuditEvent:
    actor = Actor(row.actor, row.key_id, row.origin)
    return AuditEvent(row.id, row.at, actor, row.action, row.adapter, row.version, row.alias, row.before, row.after)
