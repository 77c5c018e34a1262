"""From rows to the catalogue: all of them, or those of the names that changed since an earlier one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from loradock_adapters.adapter_settings import AdapterSettings
from loradock_adapters.names import AdapterRef
from loradock_adapters.registry.catalogue import AdapterRecord, AliasRecord, Catalogue, VersionRecord
from loradock_adapters.registry.splits import Split
from loradock_adapters.registry.states import VersionState
from loradock_adapters.registry.steps import way_back
from loradock_adapters.registry.tables import (
    AdapterRow,
    AliasRow,
    AliasStepRow,
    AliasTargetRow,
    StateRow,
    VersionRow,
)
from loradock_adapters.signing import Signature

_FEW = 300  # names; every database takes a list of that length


def catalogue(session: Session, since: Catalogue) -> Catalogue:
    """What is registered now. Names that have not changed since `since` are taken from there."""
    revision = session.scalars(select(StateRow.revision)).one()
    if revision < since.revision:  # another database than before, restored from a backup maybe
        since = Catalogue()
    # Columns, here and below, and not objects that SQLAlchemy keeps track of: of tens of thousands those take seconds.
    changed = select(*AdapterRow.__table__.c)
    if since.revision:
        changed = changed.where(AdapterRow.revision > since.revision)
    rows = session.execute(changed).all()
    kept = dict(since.adapters)
    for row in rows:
        kept.pop(row.name, None)
    there = [row for row in rows if row.deleted_at is None]
    if there:
        # A few names are asked for by name, which their keys begin with; else everything is read, in one go.
        few = [row.name for row in there] if since.revision and len(there) <= _FEW else None
        versions = _versions(session, few)
        aliases = _aliases(session, few, versions)
        for row in there:
            kept[row.name] = AdapterRecord(
                name=row.name,
                versions=MappingProxyType(versions[row.name]),
                aliases=MappingProxyType(aliases[row.name]),
                created_at=row.created_at,
                pinned_at=row.pinned_at,
                settings=AdapterSettings.stored(row.settings),
                revision=row.revision,
            )
    return Catalogue(revision, MappingProxyType(dict(sorted(kept.items()))))


def _versions(session: Session, names: list[str] | None) -> dict[str, dict[int, VersionRecord]]:
    found: dict[str, dict[int, VersionRecord]] = defaultdict(dict)
    wanted = select(*VersionRow.__table__.c).where(VersionRow.state != VersionState.DELETED).order_by(VersionRow.number)
    for row in session.execute(_of(names, wanted, VersionRow)):
        found[row.name][row.number] = _version(row)
    return found


def _aliases(
    session: Session, names: list[str] | None, versions: Mapping[str, Mapping[int, VersionRecord]]
) -> dict[str, dict[str, AliasRecord]]:
    its_step = (
        (AliasStepRow.name == AliasRow.name)
        & (AliasStepRow.alias == AliasRow.alias)
        & (AliasStepRow.step == AliasRow.step)
    )
    steps = select(AliasRow, AliasStepRow.parent).join(AliasStepRow, its_step)
    targets = (
        select(*AliasTargetRow.__table__.c)
        .join(AliasRow, (AliasTargetRow.name == AliasRow.name) & (AliasTargetRow.alias == AliasRow.alias))
        .join(AliasStepRow, its_step)
        .where((AliasTargetRow.step == AliasRow.step) | (AliasTargetRow.step == AliasStepRow.parent))
        .order_by(AliasTargetRow.version)
    )
    parts: dict[tuple[str, str, int], list[tuple[int, int]]] = defaultdict(list)
    for target in session.execute(_of(names, targets, AliasTargetRow)):
        parts[target.name, target.alias, target.step].append((target.version, target.weight))

    def previous(row: AliasRow, parent: int | None) -> Split | None:
        def ready(version: int) -> bool:
            record = versions[row.name].get(version) if row.name in versions else None
            return record is not None and record.state is VersionState.READY

        if parent is None:
            return None
        nearest = Split(tuple(parts[row.name, row.alias, parent]))
        if (
            nearest.parts
            and all(map(ready, nearest.versions))
            and nearest.parts != tuple(parts[row.name, row.alias, row.step])
        ):
            return nearest  # as good as always, and without asking for the rest of the way
        return way_back(session, row, ready).split

    found: dict[str, dict[str, AliasRecord]] = defaultdict(dict)
    for row, parent in session.execute(_of(names, steps, AliasRow)).all():
        if not parts[row.name, row.alias, row.step]:
            continue  # nothing of ours leaves it so; `doctor` finds it
        found[row.name][row.alias] = AliasRecord(
            alias=row.alias,
            split=Split(tuple(parts[row.name, row.alias, row.step])),
            previous=previous(row, parent),
            changed_at=row.changed_at,
            changed_by=row.changed_by,
            revision=row.revision,
        )
    return found


def _of(names: list[str] | None, wanted: Any, table: Any) -> Any:
    """Only rows of these names, or all. Any, because a Select's type lists its columns."""
    return wanted if names is None else wanted.where(table.name.in_(names))


def _version(row: Any) -> VersionRecord:
    """Of a row of adapter_versions; its columns have no types."""
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
        state=VersionState(row.state),
        state_reason=row.state_reason,
        state_since=row.state_since,
        signature=None if row.signature is None else Signature.parse(row.signature),
    )
