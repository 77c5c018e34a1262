"""What is registered, as one immutable snapshot that a routing table can hold and compare.

It knows no database and no traffic: records in, the record for a client's `model` string out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Any

from loradock_adapters.errors import AdapterNotFound, InvalidName, VersionNotFound
from loradock_adapters.names import AdapterRef, ModelName


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


@dataclass(frozen=True, slots=True)
class VersionRecord:
    """One version of an adapter. It never changes; `created_at` is UTC."""

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


@dataclass(frozen=True, slots=True)
class AdapterRecord:
    """An adapter with its versions by number and its aliases, each pointing to a version number.

    `pinned_at`: since when its live version is to be kept in memory, None if it is not.
    """

    name: str
    versions: Mapping[int, VersionRecord]
    aliases: Mapping[str, int]
    created_at: datetime
    pinned_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Everything that is registered as of `revision`."""

    revision: int = 0
    adapters: Mapping[str, AdapterRecord] = field(default_factory=lambda: MappingProxyType({}))

    def resolve(self, model: str) -> VersionRecord:
        """Find the version that "name", "name@3" or "name@alias" means.

        Raises AdapterNotFound if there is no such adapter (or could be none), VersionNotFound if it lacks
        that version or alias.
        """
        try:
            wanted = ModelName.parse(model)
        except InvalidName as error:
            raise AdapterNotFound(str(error)) from error
        adapter = self.adapters.get(wanted.name)
        if adapter is None:
            raise AdapterNotFound(f"no adapter is named {wanted.name!r}; list the names with GET /v1/models")
        number = wanted.version
        if wanted.alias is not None:
            number = adapter.aliases.get(wanted.alias)
        if number is None:
            known = ", ".join(sorted(adapter.aliases)) or "none"
            raise VersionNotFound(f"adapter {wanted.name!r} has no alias {wanted.alias!r}; it has {known}")
        if number not in adapter.versions:
            known = ", ".join(map(str, sorted(adapter.versions)[-10:]))
            raise VersionNotFound(f"adapter {wanted.name!r} has no version {number}; the latest are {known}")
        return adapter.versions[number]
