"""Finding rows that must be there, and marking what changed. Shared by the tables of the registry."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy.orm import Session

from loradock_adapters.errors import AdapterNotFound, VersionNotFound
from loradock_adapters.names import AdapterRef
from loradock_adapters.registry.states import VersionState
from loradock_adapters.registry.tables import AdapterRow, VersionRow


def require_adapter(session: Session, name: str) -> AdapterRow:
    """Raises AdapterNotFound."""
    row = session.get(AdapterRow, name)
    if row is None or row.deleted_at is not None:
        raise AdapterNotFound(f"no adapter is named {name[:80]!r}")
    return row


def open_adapter(session: Session, name: str) -> AdapterRow:
    """The row of a name that is or becomes an adapter's. Its `revision` is the caller's to `touch`."""
    now = datetime.now(UTC)
    row = session.get(AdapterRow, name)
    if row is None:
        row = AdapterRow(name=name, next_version=1, created_at=now, deleted_at=None, revision=0, settings={})
        session.add(row)
        session.flush()
    elif row.deleted_at is not None:
        row.created_at, row.deleted_at = now, None
    return row


def require_version(session: Session, ref: AdapterRef) -> VersionRow:
    """A version in any state but deleted. Raises AdapterNotFound, VersionNotFound."""
    require_adapter(session, ref.name)
    row = session.get(VersionRow, (ref.name, ref.version))
    if row is None:
        raise VersionNotFound(f"adapter {ref.name!r} has no version {ref.version}")
    if row.state == VersionState.DELETED:
        raise VersionNotFound(f"adapter version {ref} was deleted")
    return row


def touch(session: Session, name: str) -> int:
    """The adapter has changed with this transaction's revision, which is returned."""
    revision: int = session.info["revision"]
    session.get_one(AdapterRow, name).revision = revision
    return revision
