"""What is registered, as one immutable snapshot that a routing table can hold and compare.

It knows no database and no traffic: records in, the record for a client's `model` string out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Any

from loradock_adapters.adapter_settings import NOTHING_SAID, AdapterSettings
from loradock_adapters.errors import AdapterNotFound, AliasNotFound, InvalidName, VersionNotFound, VersionRetired
from loradock_adapters.names import LIVE, AdapterRef, ModelName
from loradock_adapters.registry.splits import Split
from loradock_adapters.registry.states import VersionState
from loradock_adapters.signing import Signature


@dataclass(frozen=True, slots=True)
class VersionFacts:
    """What is known of an adapter's bytes before they have a version number."""

    digest: str
    size_bytes: int
    rank: int
    target_modules: tuple[str, ...]
    base_digest: str
    source: str
    manifest: Mapping[str, Any] = field(default_factory=dict)
    signature: Signature | None = None


@dataclass(frozen=True, slots=True)
class VersionRecord:
    """One version of an adapter. It never changes but for its state; times are UTC."""

    ref: AdapterRef
    digest: str
    size_bytes: int
    rank: int
    target_modules: tuple[str, ...]
    base_digest: str
    source: str
    created_at: datetime
    created_by: str
    manifest: Mapping[str, Any]
    state: VersionState
    state_since: datetime
    state_reason: str | None = None
    signature: Signature | None = None

    def require_ready(self) -> None:
        """Raises VersionRetired, or VersionNotFound for one that is not ready for other reasons."""
        if self.state is VersionState.RETIRED:
            raise VersionRetired(
                f"adapter version {self.ref} was retired and answers no more; ask for {self.ref.name!r}"
            )
        if self.state is not VersionState.READY:
            why = f" ({self.state_reason})" if self.state_reason else ""
            raise VersionNotFound(f"adapter version {self.ref} is {self.state}, not ready{why}")


@dataclass(frozen=True, slots=True)
class AliasRecord:
    """Where an alias points; `revision` is the registry's when it last changed, `previous` where a rollback leads."""

    alias: str
    split: Split
    previous: Split | None
    changed_at: datetime
    changed_by: str
    revision: int


@dataclass(frozen=True, slots=True)
class AdapterRecord:
    """An adapter with its versions by number, deleted ones left out, and its aliases by name.

    `pinned_at`: since when its live versions are to be kept in memory, None if they are not. `revision`: the registry's
    when anything of it last changed.
    """

    name: str
    versions: Mapping[int, VersionRecord]
    aliases: Mapping[str, AliasRecord]
    created_at: datetime
    revision: int
    pinned_at: datetime | None = None
    settings: AdapterSettings = NOTHING_SAID

    @property
    def live(self) -> tuple[VersionRecord, ...]:
        """The versions that `live` points to, the heaviest first."""
        alias = self.aliases.get(LIVE)
        if alias is None:
            return ()
        parts = sorted(alias.split.parts, key=lambda part: (-part[1], -part[0]))
        return tuple(self.versions[version] for version, _ in parts if version in self.versions)

    def aliases_of(self, version: int) -> list[str]:
        """The aliases that point to a version, alone or among others, sorted."""
        return sorted(name for name, alias in self.aliases.items() if version in alias.split.versions)


@dataclass(frozen=True, slots=True)
class Route:
    """What a client's model name leads to: one version, or those of a split. `alias` is the alias that was meant."""

    adapter: AdapterRecord
    split: Split
    alias: str | None

    def pick(self, key: str) -> VersionRecord:
        """The version for a key; the same key always gets the same one.

        Raises VersionRetired, VersionNotFound.
        """
        number = self.split.pick(f"{self.adapter.name}@{self.alias}\0{key}")
        record = self.adapter.versions.get(number)
        if record is None:
            known = ", ".join(map(str, sorted(self.adapter.versions)[-10:])) or "none"
            raise VersionNotFound(f"adapter {self.adapter.name!r} has no version {number}; the latest are {known}")
        record.require_ready()
        return record


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Everything that is registered as of `revision`."""

    revision: int = 0
    adapters: Mapping[str, AdapterRecord] = field(default_factory=lambda: MappingProxyType({}))

    def route(self, model: str) -> Route:
        """Where "name", "name@3" or "name@alias" leads.

        Raises AdapterNotFound if there is no such adapter (or could be none), AliasNotFound if it lacks that alias.
        """
        try:
            wanted = ModelName.parse(model)
        except InvalidName as error:
            raise AdapterNotFound(str(error)) from error
        adapter = self.adapters.get(wanted.name)
        if adapter is None:
            raise AdapterNotFound(f"no adapter is named {wanted.name!r}; list the names with GET /v1/models")
        if wanted.version is not None:
            return Route(adapter, Split.to(wanted.version), None)
        alias = adapter.aliases.get(wanted.alias or LIVE)
        if alias is None:
            known = ", ".join(sorted(adapter.aliases)) or "none"
            raise AliasNotFound(f"adapter {wanted.name!r} has no alias {wanted.alias!r}; it has {known}")
        return Route(adapter, alias.split, wanted.alias)

    def resolve(self, model: str, key: str = "") -> VersionRecord:
        """The version that a model name means for a key. Raises AdapterNotFound, VersionNotFound, VersionRetired."""
        return self.route(model).pick(key)
