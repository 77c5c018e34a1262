"""From a folder of files to a version that answers: check, store, probe, register, route.

What the check refuses leaves no trace; what the probe refuses stays as a failed version with the reason. It knows no
HTTP.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from loradock_adapters.base_model import BaseModel
from loradock_adapters.check import Limits, Report, check_adapter
from loradock_adapters.errors import (
    AdapterConflict,
    AdapterMalformed,
    AdapterNotFound,
    BlobCorrupt,
    BlobMissing,
    GateRefused,
)
from loradock_adapters.names import AdapterRef, validate_alias, validate_name
from loradock_adapters.peft_folder import PeftFolder
from loradock_adapters.promotion_gate import PromotionGate
from loradock_adapters.registry import Actor, Gate, Registry, Staged, VersionFacts
from loradock_adapters.signing import read_signature
from loradock_adapters.store import Store
from loradock_server.gateway.errors import EngineUnavailable, NameTaken, ProbeFailed
from loradock_server.gateway.probing import Probed, SmokeProbe
from loradock_server.gateway.stages import Stage, Tell, unheard
from loradock_server.gateway.table import RoutingTable

# Checking and storing keep a processor, a disk and a thread busy; those that answer requests must not wait for many.
AT_ONCE = 2


@dataclass(frozen=True, slots=True)
class Registered:
    """What became of it, with the check's report and the probe; `created` is False when these bytes were a version
    before.
    """

    ref: AdapterRef
    digest: str
    created: bool
    report: Report
    probed: Probed


class Registrar:
    """Registers adapters that are checked against the one base model this server has."""

    def __init__(
        self,
        registry: Registry,
        store: Store,
        base: BaseModel,
        table: RoutingTable,
        limits: Limits,
        smoke: SmokeProbe,
        gate: PromotionGate | None = None,
    ) -> None:
        self._registry = registry
        self._store = store
        self._base = base
        self._table = table
        self._limits = limits
        self._smoke = smoke
        self._gate = None if gate is None else Gate(gate)
        self._hands = asyncio.Semaphore(AT_ONCE)

    def check_name(self, name: str) -> None:
        """Raises InvalidName or NameTaken, before anything is read or uploaded."""
        validate_name(name)
        if name == self._table.base_name:
            raise NameTaken(f"{name!r} is the base model's name; choose another one for the adapter")

    async def register(
        self, name: str, folder: Path, *, source: str, by: Actor, alias: str | None, tell: Tell = unheard
    ) -> Registered:
        """Make the folder's adapter a version of `name` and, for the very next request, what `alias` points to.

        Without an alias it is asked for by its number. Raises InvalidName, NameTaken, AdapterRejected,
        AdapterUnreadable, AdapterConflict, GateRefused (it is a version then, and not live), ProbeFailed,
        EngineUnavailable (a probe is required and cannot be made), StoreError, RegistryError.
        """
        self.check_name(name)
        if alias is not None:
            validate_alias(alias)
        self._smoke.require_engine()
        try:
            async with self._hands:
                report, staged, facts = await asyncio.to_thread(self._take_in, name, folder, source, by, tell)
            probed = await self._probe(staged, facts, by, tell)
            try:
                await asyncio.to_thread(self._make_ready, staged.ref, by, alias)
            finally:
                await self._table.refresh()
        except AdapterNotFound as error:
            # Nothing had to be there when it began: somebody deleted the adapter under our feet.
            raise AdapterConflict(f"{name} was deleted while it was being registered; register it again") from error
        return Registered(staged.ref, facts.digest, staged.created, report, probed)

    def _take_in(
        self, name: str, folder: Path, source: str, by: Actor, tell: Tell
    ) -> tuple[Report, Staged, VersionFacts]:
        tell(Stage.CHECKING, 0, None)
        report = check_adapter(folder, self._base, self._limits)
        report.raise_if_faulty()
        tell(Stage.CHECKING, report.size_bytes, report.size_bytes)
        tell(Stage.STORING, 0, report.size_bytes)
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
        tell(Stage.STORING, blob.size_bytes, blob.size_bytes)
        return report, staged, facts

    async def _probe(self, staged: Staged, facts: VersionFacts, by: Actor, tell: Tell) -> Probed:
        if staged.ready:
            return Probed(False, f"these bytes are {staged.ref}, which was ready before")
        tell(Stage.PROBING, 0, 1)
        try:
            probed = await self._smoke.probe(staged.ref, facts.digest, facts.signature)
        except (ProbeFailed, EngineUnavailable) as error:
            await asyncio.to_thread(self._registry.versions.fail, staged.ref, str(error), by=by)
            await self._table.refresh()
            raise
        tell(Stage.PROBING, 1, 1)
        return probed

    def _make_ready(self, ref: AdapterRef, by: Actor, alias: str | None) -> None:
        versions = self._registry.versions
        try:
            versions.make_ready(ref, by=by, alias=alias, gate=self._gate)
        except GateRefused:
            versions.make_ready(ref, by=by, alias=None)
            raise

    def _verify(self, digest: str, folder: Path, peft: PeftFolder) -> None:
        try:
            self._store.verify(digest)
        except BlobMissing:
            # Collected as garbage before the version referred to it, which now protects it.
            self._store.put(folder, peft.files)
            self._store.verify(digest)
