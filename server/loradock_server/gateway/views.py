"""Registry records as the admin routes show them. Plain JSON values; reads nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loradock_adapters.names import LIVE
from loradock_adapters.registry import AdapterRecord, KeyRecord, VersionRecord
from loradock_server.gateway.watch import EngineState


def adapter_view(adapter: AdapterRecord, engine: EngineState) -> dict[str, Any]:
    """An adapter with its versions, oldest first; `residency` maps ids in the engine's memory to their tier."""
    versions = [version_view(adapter, record, engine) for _, record in sorted(adapter.versions.items())]
    return {
        "object": "adapter",
        "name": adapter.name,
        "created_at": adapter.created_at.isoformat(),
        "aliases": dict(adapter.aliases),
        "versions": versions,
        "residency": {v["id"]: v["residency"] for v in versions if v["residency"] is not None},
    }


def version_view(adapter: AdapterRecord, record: VersionRecord, engine: EngineState) -> dict[str, Any]:
    """One version; `residency` is its tier in the engine's memory, or null."""
    resident: Mapping[str, Any] = engine.adapters.get(record.ref.id, {})
    return {
        "object": "adapter.version",
        "id": record.ref.id,
        "name": record.ref.name,
        "version": record.ref.version,
        "digest": record.digest,
        "size_bytes": record.size_bytes,
        "rank": record.rank,
        "target_modules": list(record.target_modules),
        "base_digest": record.base_digest,
        "source": record.source,
        "created_at": record.created_at.isoformat(),
        "created_by": record.created_by,
        "aliases": sorted(alias for alias, number in adapter.aliases.items() if number == record.ref.version),
        "live": adapter.aliases.get(LIVE) == record.ref.version,
        "residency": resident.get("tier"),
        "in_flight": resident.get("in_flight", 0),
        "manifest": dict(record.manifest),
    }


def key_view(key: KeyRecord) -> dict[str, Any]:
    """An API key without its secret."""
    return {
        "object": "key",
        "id": key.id,
        "name": key.name,
        "scopes": sorted(key.scopes),
        "prefix": key.prefix,
        "created_at": key.created_at.isoformat(),
        "revoked_at": key.revoked_at and key.revoked_at.isoformat(),
    }
