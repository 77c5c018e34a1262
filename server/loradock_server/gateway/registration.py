"""From a folder of files to a version that answers: check, store, register, route.

The blocking part runs in one thread hop; everything it refuses leaves no trace. It knows no HTTP.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from loradock_adapters.base_model import BaseModel
from loradock_adapters.check import Limits, Report, check_adapter
from loradock_adapters.errors import AdapterMalformed, BlobCorrupt, BlobMissing
from loradock_adapters.names import AdapterRef, validate_alias, validate_name
from loradock_adapters.peft_folder import PeftFolder
from loradock_adapters.registry import Actor, Registry, VersionFacts
from loradock_adapters.signing import read_signature
from loradock_adapters.store import Store
from loradock_server.gateway.errors import NameTaken, SourceRefused
from loradock_server.gateway.table import RoutingTable


@dataclass(frozen=True, slots=True)
class Registered:
    """What became of it, and the check's warnings; `created` is False when these bytes were a version before."""

    ref: AdapterRef
    digest: str
    created: bool
    report: Report


class Registrar:
    """Registers adapters that are checked against the one base model this server has."""

    def __init__(self, registry: Registry, store: Store, base: BaseModel, table: RoutingTable, limits: Limits) -> None:
        self._registry = registry
        self._store = store
        self._base = base
        self._table = table
        self._limits = limits

    def check_name(self, name: str) -> None:
        """Raises InvalidName or NameTaken, before anything is read or uploaded."""
        validate_name(name)
        if name == self._table.base_name:
            raise NameTaken(f"{name!r} is the base model's name; choose another one for the adapter")

    async def register(self, name: str, folder: Path, *, source: str, by: Actor, alias: str | None) -> Registered:
        """Make the folder's adapter a version of `name` and, for the very next request, what `alias` points to.

        Without an alias it is asked for by its number. Raises InvalidName, NameTaken, AdapterRejected,
        AdapterUnreadable, AdapterConflict, StoreError, RegistryError.
        """
        self.check_name(name)
        if alias is not None:
            validate_alias(alias)
        done = await asyncio.to_thread(self._register, name, folder, source, by, alias)
        await self._table.refresh()
        return done

    def _register(self, name: str, folder: Path, source: str, by: Actor, alias: str | None) -> Registered:
        report = check_adapter(folder, self._base, self._limits)
        report.raise_if_faulty()
        peft = PeftFolder.read(folder)
        blob = self._store.put(folder, peft.files)
        signature = read_signature(folder)
        if signature is not None and not signature.holds_for(blob.digest):
            raise AdapterMalformed("the files changed while they were read; register them again", where=str(folder))
        facts = VersionFacts(
            digest=blob.digest,
            size_bytes=blob.size_bytes,
            rank=report.rank,
            target_modules=tuple(report.target_modules),
            base_digest=self._base.digest,
            source=source,
            manifest=dict(peft.manifest),
            signature=signature,
        )
        versions = self._registry.versions
        staged = versions.stage(name, facts, by=by)
        try:
            self._verify(blob.digest, folder, peft)
        except (BlobCorrupt, BlobMissing) as error:
            versions.fail(staged.ref, str(error), by=by)
            raise
        versions.verify(staged.ref, by=by)
        versions.make_ready(staged.ref, by=by, alias=alias)
        return Registered(staged.ref, blob.digest, staged.created, report)

    def _verify(self, digest: str, folder: Path, peft: PeftFolder) -> None:
        try:
            self._store.verify(digest)
        except BlobMissing:
            # Collected as garbage before the version referred to it, which now protects it.
            self._store.put(folder, peft.files)
            self._store.verify(digest)


def allowed_folder(source: str, roots: tuple[Path, ...]) -> Path:
    """The folder a client names on this server, if the operator opened it. Raises SourceRefused.

    Links count by where they lead, those inside the folder too. Blocks: call it in a thread.
    """
    opened = [root.resolve() for root in roots]
    if not opened:
        raise SourceRefused("this server takes no paths; upload the files, or set LORADOCK_SOURCE_ROOTS")
    path = Path(source)
    folder = path.resolve()
    # One answer for all of it: what exists outside the roots is nobody's business.
    if not path.is_absolute() or not _inside(folder, opened) or not folder.is_dir():
        raise SourceRefused(
            f"source {source[:200]!r} is not an absolute path of a folder below "
            + " or ".join(str(root) for root in roots)
        )
    for entry in folder.iterdir():
        if not _inside(entry.resolve(), opened):
            raise SourceRefused(f"{entry.name!r} in the source is a link out of the allowed folders; copy the file")
    return folder


def _inside(path: Path, roots: list[Path]) -> bool:
    return any(path.is_relative_to(root) for root in roots)
