"""The registry: which adapters exist, in which versions, and where their aliases point.

Synchronous and thread-safe; async callers use `asyncio.to_thread`. It knows no bytes (the store has those)
and no judgement (`check` has that): it records facts it is given.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from loradock_adapters.errors import AdapterNotFound, VersionNotFound
from loradock_adapters.names import LIVE, AdapterRef, validate_alias, validate_name
from loradock_adapters.registry.catalogue import AdapterRecord, Catalogue, VersionFacts, VersionRecord
from loradock_adapters.registry.database import Database
from loradock_adapters.registry.keys import KeyTable
from loradock_adapters.registry.tables import AdapterRow, AliasRow, StateRow, VersionRow


@dataclass(frozen=True, slots=True)
class Registration:
    """What registering came to: `created` is False when these bytes already were a version of the name."""

    ref: AdapterRef
    digest: str
    created: bool
    live: bool


class Registry:
    """Names, versions and aliases; `keys` holds the API keys. Every method may raise RegistryError."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.keys = KeyTable(database)

    @classmethod
    def open(cls, url: str) -> Registry:
        """Open an SQLAlchemy URL, creating or migrating the database. Raises RegistryError."""
        return cls(Database.open(url))

    def close(self) -> None:
        self._database.close()

    def register(self, name: str, facts: VersionFacts, *, created_by: str) -> Registration:
        """Record a version under the next number and point `live` to it; the same bytes keep their number.

        Raises InvalidName.
        """
        validate_name(name)
        with self._database.write() as session:
            version = session.scalar(
                select(VersionRow).where(
                    VersionRow.name == name,
                    VersionRow.digest == facts.digest,
                    VersionRow.deleted_at.is_(None),
                )
            )
            created = version is None
            if version is None:
                version = _add_version(session, name, facts, created_by)
            ref = AdapterRef(name, version.number)
            moved = _point(session, name, LIVE, ref.version)
            if not created and not moved:
                session.rollback()
        return Registration(ref, facts.digest, created=created, live=True)

    def set_alias(self, name: str, alias: str, version: int) -> None:
        """Point an alias to a version. Raises InvalidName, AdapterNotFound, VersionNotFound."""
        validate_alias(alias)
        with self._database.write() as session:
            _require_adapter(session, name)
            row = session.get(VersionRow, (name, version))
            if row is None or row.deleted_at is not None:
                raise VersionNotFound(f"adapter {name!r} has no version {version}")
            if not _point(session, name, alias, version):
                session.rollback()

    def pin(self, name: str) -> bool:
        """Have the live version kept in memory from now on; False when it is already. Raises AdapterNotFound."""
        return self._set_pin(name, datetime.now(UTC))

    def unpin(self, name: str) -> bool:
        """Let it go from memory as any other; False when it was not pinned. Raises AdapterNotFound."""
        return self._set_pin(name, None)

    def _set_pin(self, name: str, since: datetime | None) -> bool:
        with self._database.write() as session:
            adapter = _require_adapter(session, name)
            changed = (adapter.pinned_at is None) != (since is None)
            if changed:
                adapter.pinned_at = since
            else:
                session.rollback()
        return changed

    def delete_adapter(self, name: str) -> tuple[AdapterRef, ...]:
        """Forget a name with all its versions and aliases, and return what was forgotten, oldest first.

        The name may be used again; its version numbers go on where they stopped. Raises AdapterNotFound.
        """
        with self._database.write() as session:
            adapter = _require_adapter(session, name)
            versions = session.scalars(
                select(VersionRow)
                .where(VersionRow.name == name, VersionRow.deleted_at.is_(None))
                .order_by(VersionRow.number)
            ).all()
            session.execute(delete(AliasRow).where(AliasRow.name == name))
            now = datetime.now(UTC)
            adapter.deleted_at = now
            adapter.pinned_at = None
            for version in versions:
                version.deleted_at = now
        return tuple(AdapterRef(name, version.number) for version in versions)

    def revision(self) -> int:
        """The number that grows with every change, keys included. One cheap query."""
        with self._database.read() as session:
            return session.scalars(select(StateRow.revision)).one()

    def catalogue(self) -> Catalogue:
        """Everything that is registered now, consistent in itself."""
        with self._database.read() as session:
            revision = session.scalars(select(StateRow.revision)).one()
            adapters = session.scalars(select(AdapterRow).where(AdapterRow.deleted_at.is_(None))).all()
            versions = session.scalars(select(VersionRow).where(VersionRow.deleted_at.is_(None))).all()
            aliases = session.scalars(select(AliasRow)).all()
        by_name: dict[str, dict[int, VersionRecord]] = defaultdict(dict)
        for version in sorted(versions, key=lambda row: row.number):
            by_name[version.name][version.number] = _record(version)
        pointing: dict[str, dict[str, int]] = defaultdict(dict)
        for alias in aliases:
            pointing[alias.name][alias.alias] = alias.version
        records = {
            row.name: AdapterRecord(
                name=row.name,
                versions=MappingProxyType(by_name[row.name]),
                aliases=MappingProxyType(pointing[row.name]),
                created_at=row.created_at,
                pinned_at=row.pinned_at,
            )
            for row in sorted(adapters, key=lambda row: row.name)
        }
        return Catalogue(revision, MappingProxyType(records))


def _add_version(session: Session, name: str, facts: VersionFacts, created_by: str) -> VersionRow:
    now = datetime.now(UTC)
    adapter = session.get(AdapterRow, name)
    if adapter is None:
        adapter = AdapterRow(name=name, next_version=1, created_at=now, deleted_at=None)
        session.add(adapter)
    elif adapter.deleted_at is not None:
        adapter.created_at, adapter.deleted_at = now, None
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
        created_at=now,
        created_by=created_by,
        deleted_at=None,
    )
    adapter.next_version += 1
    session.flush()
    session.add(version)
    session.flush()
    return version


def _point(session: Session, name: str, alias: str, version: int) -> bool:
    row = session.get(AliasRow, (name, alias))
    if row is None:
        session.add(AliasRow(name=name, alias=alias, version=version))
        return True
    moved = row.version != version
    row.version = version
    return moved


def _require_adapter(session: Session, name: str) -> AdapterRow:
    row = session.get(AdapterRow, name)
    if row is None or row.deleted_at is not None:
        raise AdapterNotFound(f"no adapter is named {name[:80]!r}")
    return row


def _record(row: VersionRow) -> VersionRecord:
    return VersionRecord(
        ref=AdapterRef(row.name, row.number),
        digest=row.digest,
        size_bytes=row.size_bytes,
        rank=row.rank,
        target_modules=tuple(row.target_modules),
        base_digest=row.base_digest,
        source=row.source,
        created_at=row.created_at,
        created_by=row.created_by,
        manifest=MappingProxyType(row.manifest),
    )
