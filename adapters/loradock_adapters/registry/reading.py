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


def catalogue(session: Session, since: Catalogue) -> Catalogue:
    """What is registered now. Names that have not changed since `since` are taken from there."""
    revision = session.scalars(select(StateRow.revision)).one()
    if revision < since.revision:  # another database than before, restored from a backup maybe
        since = Catalogue()
    changed = select(AdapterRow).where(AdapterRow.revision > since.revision) if since.revision else select(AdapterRow)
    rows = session.scalars(changed).all()
    kept = dict(since.adapters)
    for row in rows:
        kept.pop(row.name, None)
    there = [row for row in rows if row.deleted_at is None]
    if there:
        versions = _versions(session, since.revision)
        aliases = _aliases(session, since.revision, versions)
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


def _versions(session: Session, since: int) -> dict[str, dict[int, VersionRecord]]:
    found: dict[str, dict[int, VersionRecord]] = defaultdict(dict)
    wanted = select(VersionRow).where(VersionRow.state != VersionState.DELETED).order_by(VersionRow.number)
    for row in session.scalars(_changed(wanted, VersionRow, since)):
        found[row.name][row.number] = _version(row)
    return found


def _aliases(
    session: Session, since: int, versions: Mapping[str, Mapping[int, VersionRecord]]
) -> dict[str, dict[str, AliasRecord]]:
    its_step = (
        (AliasStepRow.name == AliasRow.name)
        & (AliasStepRow.alias == AliasRow.alias)
        & (AliasStepRow.step == AliasRow.step)
    )
    steps = select(AliasRow, AliasStepRow.parent).join(AliasStepRow, its_step)
    targets = (
        select(AliasTargetRow)
        .join(AliasRow, (AliasTargetRow.name == AliasRow.name) & (AliasTargetRow.alias == AliasRow.alias))
        .join(AliasStepRow, its_step)
        .where((AliasTargetRow.step == AliasRow.step) | (AliasTargetRow.step == AliasStepRow.parent))
        .order_by(AliasTargetRow.version)
    )
    parts: dict[tuple[str, str, int], list[tuple[int, int]]] = defaultdict(list)
    for target in session.scalars(_changed(targets, AliasTargetRow, since)):
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
    for row, parent in session.execute(_changed(steps, AliasRow, since)).all():
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


def _changed(wanted: Any, table: Any, since: int) -> Any:
    """Only rows of names that changed after `since`; everything when that is the beginning.

    Any, because a Select's type lists its columns.
    """
    if since == 0:
        return wanted
    return wanted.join(AdapterRow, AdapterRow.name == table.name).where(AdapterRow.revision > since)


def _version(row: VersionRow) -> VersionRecord:
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
