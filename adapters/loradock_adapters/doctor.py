"""What is wrong between registry and store, and putting it right: for after a crash, a full disk or a careless hand.

It looks at everything, reads all bytes, and reports all it finds; with `repair` it leaves nothing that could answer
wrongly. It knows no server: none may be running while it repairs.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from loradock_adapters.errors import BlobCorrupt, BlobMissing
from loradock_adapters.garbage import collect_garbage, find_garbage
from loradock_adapters.registry import Actor, AdapterRecord, Registry, VersionRecord, VersionState
from loradock_adapters.store import Store

DOCTOR = Actor("doctor", origin="this machine")
AGE_SECONDS = 86_400.0

_UNFINISHED = frozenset({VersionState.STAGED, VersionState.VERIFIED})
_NEEDS_BYTES = frozenset({VersionState.VERIFIED, VersionState.READY, VersionState.RETIRED})


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: what it is, where, and what `repair` does about it (None: nothing can be done here)."""

    code: str
    where: str
    message: str
    repair: str | None

    def as_dict(self) -> dict[str, str | None]:
        return {"code": self.code, "where": self.where, "message": self.message, "repair": self.repair}


def examine(
    registry: Registry, store: Store, uploads: Path, *, age_seconds: float = AGE_SECONDS, repair: bool = False
) -> tuple[Finding, ...]:
    """Everything that is wrong, and repaired if asked for.

    What is younger than `age_seconds` may still be in the making and is left alone. `uploads` is the folder in which
    uploads grow. Raises RegistryError, StoreError.
    """
    found: list[Finding] = []

    def note(finding: Finding, mend: Callable[[], object] | None = None) -> None:
        found.append(finding)
        if repair and mend is not None:
            mend()

    for damage in registry.damage():
        note(Finding("database_damaged", "registry", damage, None))
    adapters = list(registry.catalogue().adapters.values())
    for record in (version for adapter in adapters for version in adapter.versions.values()):
        _examine_bytes(registry, store, record, note)
        _examine_progress(registry, record, age_seconds, note)
    # Read anew: versions that failed just now are no targets any more.
    for adapter in registry.catalogue().adapters.values() if repair else adapters:
        _examine_aliases(registry, adapter, note)
    _examine_leftovers(registry, store, uploads, age_seconds, note)
    return tuple(found)


Note = Callable[..., None]


def _examine_bytes(registry: Registry, store: Store, record: VersionRecord, note: Note) -> None:
    if record.state not in _NEEDS_BYTES:
        return
    ref, digest = record.ref, record.digest
    try:
        store.verify(digest)
    except BlobMissing:
        reason = "its bytes are gone from the store; register the adapter again"
        repair = f"{ref} becomes failed"
        note(
            Finding("missing_blob", ref.id, f"the store has no blob {digest}", repair),
            lambda: registry.versions.fail(ref, reason, by=DOCTOR),
        )
    except BlobCorrupt as error:
        reason = "its bytes in the store are others than were registered; register the adapter again"

        def mend() -> None:
            store.quarantine(digest)  # first: a doctor that is stopped here finds them missing the next time
            registry.versions.fail(ref, reason, by=DOCTOR)

        repair = f"{ref} becomes failed, its bytes go to `corrupt` in {store.where}"
        note(Finding("corrupt_blob", ref.id, str(error), repair), mend)


def _examine_progress(registry: Registry, record: VersionRecord, age_seconds: float, note: Note) -> None:
    since = datetime.now(UTC) - record.state_since
    if record.state in _UNFINISHED and since >= timedelta(seconds=age_seconds):
        ref = record.ref
        note(
            Finding("unfinished_version", ref.id, f"its registration stopped while it was {record.state}", "it fails"),
            lambda: registry.versions.fail(ref, "its registration did not finish", by=DOCTOR),
        )


def _examine_aliases(registry: Registry, adapter: AdapterRecord, note: Note) -> None:
    for name, alias in adapter.aliases.items():
        bad = [v for v in alias.split.versions if not _is_ready(adapter, v)]
        if bad:
            listed = ", ".join(map(str, bad))
            note(
                Finding(
                    "alias_without_version",
                    f"{adapter.name}@{name}",
                    f"it points to version {listed}, which cannot answer",
                    "it points to what is left, or to where it pointed before, or it goes",
                ),
                lambda name=name: registry.aliases.mend(adapter.name, name, by=DOCTOR),
            )


def _is_ready(adapter: AdapterRecord, version: int) -> bool:
    record = adapter.versions.get(version)
    return record is not None and record.state is VersionState.READY


def _examine_leftovers(registry: Registry, store: Store, uploads: Path, age_seconds: float, note: Note) -> None:
    left = "a crashed writer left it"
    half_written = [
        Finding("half_written", place, left, "it is removed")
        for place in store.leftovers(older_than_seconds=age_seconds)
    ]
    _note_all(half_written, lambda: store.sweep(older_than_seconds=age_seconds), note)
    for folder in _old_uploads(uploads, age_seconds):
        note(
            Finding("half_uploaded", str(folder), left, "it is removed"),
            lambda folder=folder: shutil.rmtree(folder, ignore_errors=True),
        )
    orphans = [
        Finding("orphan_blob", garbage.digest, f"{garbage.size_bytes} bytes that nothing needs", "it is removed")
        for garbage in find_garbage(registry, store, held=tuple, grace_seconds=age_seconds)
    ]
    _note_all(orphans, lambda: collect_garbage(registry, store, held=tuple, grace_seconds=age_seconds), note)


def _note_all(findings: list[Finding], mend: Callable[[], object], note: Note) -> None:
    """Findings of which one repair mends all."""
    for finding in findings[:-1]:
        note(finding)
    for finding in findings[-1:]:
        note(finding, mend)


def _old_uploads(uploads: Path, age_seconds: float) -> Iterator[Path]:
    limit = time.time() - age_seconds
    for folder in sorted((*uploads.glob("upload-*"), *uploads.glob("source-*"))):
        if folder.stat().st_mtime <= limit:
            yield folder
