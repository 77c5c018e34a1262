"""A copy of registry and artifacts in one folder, taken while servers write, and the way back.

The registry comes first, as one snapshot, then the bytes that this snapshot refers to: they were in the store before
any version referred to them, and never change. The other way round, versions could lack their bytes. It knows no server
and no PostgreSQL, whose own tools do this.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from loradock_adapters.digest import list_files
from loradock_adapters.errors import BackupError, BlobCorrupt, BlobMissing
from loradock_adapters.files import growing_folder, sync_file, sync_folder
from loradock_adapters.registry import Catalogue, Registry, VersionState
from loradock_adapters.store import FolderStore, Store
from loradock_adapters.strict_json import parse_object

REGISTRY_FILE, STORE_FOLDER, RECORD_FILE = "registry.db", "store", "backup.json"
SCHEMA = 1

Progress = Callable[[int, int], None]
"""Hears how many blobs are done, of how many."""

_WHOLE = frozenset({VersionState.VERIFIED, VersionState.READY, VersionState.RETIRED})
_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Backup:
    """What a backup holds. `lost`: versions whose bytes the store did not have, or not unharmed."""

    created_at: str
    revision: int
    adapters: int
    versions: int
    blobs: int
    size_bytes: int
    lost: tuple[str, ...] = ()


def back_up(registry: Registry, store: Store, out: Path, progress: Progress = lambda done, total: None) -> Backup:
    """Make the folder `out`, which must not be there: complete, or not at all.

    Raises BackupError, RegistryError, StoreError.
    """
    if out.is_symlink() or (out.exists() and (not out.is_dir() or any(out.iterdir()))):
        raise BackupError(f"{out} is there already; name a new folder, nothing is overwritten")
    try:
        with growing_folder(out) as folder:
            return _write(registry, store, folder, progress)
    except OSError as error:
        raise BackupError(f"{out} cannot be written: {error.strerror or error}") from error


def _write(registry: Registry, store: Store, folder: Path, progress: Progress) -> Backup:
    copies = FolderStore(folder / STORE_FOLDER)
    snapshot = folder / REGISTRY_FILE
    for _ in range(_ATTEMPTS):
        snapshot.unlink(missing_ok=True)
        registry.snapshot(snapshot)
        with _opened(snapshot) as copied:
            catalogue = copied.catalogue()
        lost = _copy(catalogue, store, copies, progress)
        if not lost:  # else maybe a version that was deleted and collected meanwhile: the next snapshot lacks it
            break
    done = _record(catalogue, copies, lost)
    (folder / RECORD_FILE).write_text(json.dumps({"schema": SCHEMA, **asdict(done)}, indent=2) + "\n")
    for path in (snapshot, folder / RECORD_FILE):
        sync_file(path)
    return done


def restore(source: Path, store: Store, registry_file: Path, progress: Progress = lambda done, total: None) -> Backup:
    """Bring a backup into a store and to a registry's file, which must not be there. Every byte is compared.

    The registry comes last: whoever is stopped before that has restored nothing, and may begin again. Raises
    BackupError, RegistryError, StoreError.
    """
    done = read_record(source)
    if registry_file.exists():
        raise BackupError(f"{registry_file} is there already; restore into a home folder without a registry")
    growing = registry_file.with_name(f".{registry_file.name}.restoring")
    try:
        growing.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / REGISTRY_FILE, growing)
        with _opened(growing) as registry:
            if damage := registry.damage():
                raise BackupError(f"the registry in {source} is damaged: {damage[0]}")
            wanted = _digests(registry.catalogue())
        _bring_back(wanted, FolderStore(source / STORE_FOLDER), store, set(done.lost), progress)
        sync_file(growing)
        growing.rename(registry_file)
        sync_folder(registry_file.absolute().parent)
    except OSError as error:
        raise BackupError(f"{source} cannot be restored to {registry_file}: {error}") from error
    finally:
        for left in growing.parent.glob(f"{growing.name}*"):
            left.unlink(missing_ok=True)
    return done


def _bring_back(
    wanted: dict[str, list[str]], copies: FolderStore, store: Store, lost: set[str], progress: Progress
) -> None:
    for number, (digest, versions) in enumerate(sorted(wanted.items())):
        progress(number, len(wanted))
        try:
            folder = copies.fetch(digest)
        except (BlobMissing, BlobCorrupt) as error:
            if lost.issuperset(versions):
                continue  # they were lost before the backup
            raise BackupError(f"the backup is damaged, {', '.join(versions)} cannot be restored: {error}") from error
        store.put(folder, list_files(folder))
    progress(len(wanted), len(wanted))


def read_record(source: Path) -> Backup:
    """What a backup says of itself. Raises BackupError."""
    path = source / RECORD_FILE
    try:
        fields = parse_object(path.read_bytes())
        if fields.pop("schema", None) != SCHEMA:
            raise BackupError(f"{path} was written by another version of LoRADock; use that one")
        return Backup(**{**fields, "lost": tuple(fields["lost"])})
    except OSError as error:
        raise BackupError(f"{source} is no backup: {path} cannot be read ({error.strerror})") from error
    except (ValueError, TypeError, KeyError) as error:
        raise BackupError(f"{source} is no backup: {path} is not as we write it ({error})") from error


def _digests(catalogue: Catalogue) -> dict[str, list[str]]:
    """Every digest that a version has, with the versions that cannot do without its bytes."""
    found: dict[str, list[str]] = {}
    for adapter in catalogue.adapters.values():
        for version in adapter.versions.values():
            needing = found.setdefault(version.digest, [])
            if version.state in _WHOLE:
                needing.append(version.ref.id)
    return found


def _copy(catalogue: Catalogue, store: Store, copies: FolderStore, progress: Progress) -> list[str]:
    """Copy what is not copied yet; returns the versions whose bytes could not be."""
    wanted, there, lost = _digests(catalogue), set(copies.digests()), list[str]()
    for number, (digest, versions) in enumerate(sorted(wanted.items())):
        progress(number, len(wanted))
        if digest not in there:
            try:
                folder = store.fetch(digest)
                copies.put(folder, list_files(folder))
            except (BlobMissing, BlobCorrupt):
                lost += versions
    progress(len(wanted), len(wanted))
    return lost


def _record(catalogue: Catalogue, copies: FolderStore, lost: list[str]) -> Backup:
    wanted = _digests(catalogue)
    for digest in set(copies.digests()) - set(wanted):
        copies.remove(digest)  # of a version that was deleted between two attempts
    kept = copies.digests()
    return Backup(
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        revision=catalogue.revision,
        adapters=len(catalogue.adapters),
        versions=sum(len(adapter.versions) for adapter in catalogue.adapters.values()),
        blobs=len(kept),
        size_bytes=sum(copies.size_bytes(digest) for digest in kept),
        lost=tuple(sorted(lost)),
    )


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Registry]:
    registry = Registry.open(f"sqlite:///{path.absolute()}")
    try:
        yield registry
    finally:
        registry.close()
        # One file again: what SQLite keeps beside it is taken in.
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA journal_mode = DELETE")
