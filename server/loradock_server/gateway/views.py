"""Registry records as the admin routes show them. Plain JSON values; reads nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from loradock_adapters.names import LIVE
from loradock_adapters.registry import (
    AdapterRecord,
    AliasRecord,
    AuditEvent,
    EvaluationRecord,
    KeyRecord,
    Operation,
    OperationState,
    VersionRecord,
)
from loradock_adapters.signing import Signature, TrustedKey, signer_of
from loradock_server.gateway.watch import EngineState

# From nearest to the processor to furthest.
_TIERS = {"slot": 0, "memory": 1, "disk": 2}


# Why a version cannot be answered here at all, as the end of a sentence; None when it can.
WhyNotServed = Callable[[VersionRecord], str | None]


def adapter_view(
    adapter: AdapterRecord, engine: EngineState, why_not_served: WhyNotServed, trusted: Iterable[TrustedKey] = ()
) -> dict[str, Any]:
    """An adapter with its versions, oldest first, and what these come to together: the nearest tier, bytes in memory,
    requests in flight, the last use. `residency` maps ids in the engine's memory to their tier, `aliases` names to a
    version number or, when traffic is split, to weights by version.
    """
    versions = [
        version_view(adapter, record, engine, why_not_served, trusted) for _, record in sorted(adapter.versions.items())
    ]
    return {
        "object": "adapter",
        "name": adapter.name,
        "settings": adapter.settings.document(),
        "created_at": adapter.created_at.isoformat(),
        "revision": adapter.revision,
        "aliases": {name: alias.split.as_target() for name, alias in adapter.aliases.items()},
        "versions": versions,
        "residency": {v["id"]: v["residency"] for v in versions if v["residency"] is not None},
        "tier": _nearest(v["tier"] for v in versions),
        "bytes": sum(v["bytes"] for v in versions),
        "in_flight": sum(v["in_flight"] for v in versions),
        "last_used": max((v["last_used"] for v in versions if v["last_used"]), default=None),
        "pinned": adapter.pinned_at is not None,
        "pinned_at": adapter.pinned_at and adapter.pinned_at.isoformat(),
        "pin_problem": next((v["pin_problem"] for v in versions if v["pin_problem"]), None),
    }


def version_view(
    adapter: AdapterRecord,
    record: VersionRecord,
    engine: EngineState,
    why_not_served: WhyNotServed,
    trusted: Iterable[TrustedKey] = (),
) -> dict[str, Any]:
    """One version. `tier` is slot (it may run), memory or disk, `residency` the same but null for disk; `bytes` is what
    it takes in memory, `size_bytes` on disk. The pin is the live version's. `signature` names the signer, if `trusted`
    knows the key.
    """
    resident: Mapping[str, Any] = engine.adapters.get(record.ref.id, {})
    aliases = adapter.aliases_of(record.ref.version)
    live = LIVE in aliases
    pinned = live and adapter.pinned_at is not None
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
        "state": record.state.value,
        "state_since": record.state_since.isoformat(),
        "state_reason": record.state_reason,
        "aliases": aliases,
        "live": live,
        "residency": resident.get("tier"),
        "tier": resident.get("tier") or "disk",
        "bytes": resident.get("bytes") or 0,
        "in_flight": resident.get("in_flight", 0),
        "last_used": _moment(resident.get("last_used")),
        "pinned": pinned,
        "pin_problem": _pin_problem(record, engine, why_not_served) if pinned else None,
        "signature": record.signature and _signature(record.signature, trusted),
        "manifest": dict(record.manifest),
    }


def alias_view(name: str, alias: AliasRecord) -> dict[str, Any]:
    """Where an alias points: `version`, or `split` with weights; and where a rollback would lead."""
    return {
        "object": "adapter.alias",
        "name": name,
        "alias": alias.alias,
        **alias.split.as_fields(),
        "previous": alias.previous and alias.previous.as_target(),
        "revision": alias.revision,
        "changed_at": alias.changed_at.isoformat(),
        "changed_by": alias.changed_by,
    }


def event_view(event: AuditEvent) -> dict[str, Any]:
    """One event of the audit."""
    return {
        "object": "audit.event",
        "id": event.id,
        "at": event.at.isoformat(),
        "actor": {"name": event.actor.name, "key": event.actor.key or None, "origin": event.actor.origin or None},
        "action": event.action,
        "adapter": event.adapter,
        "version": event.version,
        "alias": event.alias,
        "before": event.before,
        "after": event.after,
    }


def operation_view(operation: Operation) -> dict[str, Any]:
    """An operation. `done` of `total` (null: unknown) are of its stage: bytes, or probes. Once it is over: `status` as
    HTTP's, and `result` or `error` as somebody who waited would have got them.
    """
    answer = operation.answer or {}
    body = answer.get("body") or {}
    return {
        "object": "operation",
        "id": operation.id,
        "kind": operation.kind,
        "adapter": operation.adapter,
        "state": operation.state.value,
        "stage": operation.stage or None,
        "done": operation.done,
        "total": operation.total,
        "created_at": operation.created_at.isoformat(),
        "created_by": operation.actor.name,
        "updated_at": operation.updated_at.isoformat(),
        "finished_at": operation.finished_at and operation.finished_at.isoformat(),
        "status": answer.get("status"),
        "result": body if operation.state is OperationState.SUCCEEDED else None,
        "error": body.get("error") if operation.state is OperationState.FAILED else None,
    }


def evaluation_view(record: EvaluationRecord) -> dict[str, Any]:
    """One evaluation without its document."""
    return {
        "object": "adapter.evaluation",
        "id": record.id,
        "name": record.ref.name,
        "version": record.ref.version,
        "task": record.evaluation.task,
        "metrics": dict(record.evaluation.metrics),
        "data_sha256": record.evaluation.data_sha256,
        "created_at": record.created_at.isoformat(),
        "created_by": record.created_by,
    }


def key_view(key: KeyRecord) -> dict[str, Any]:
    """An API key without its secret. `adapters` null: every one; `limits` has those that are set."""
    said = key.settings
    return {
        "object": "key",
        "id": key.id,
        "name": said.name,
        "scopes": sorted(said.scopes),
        "tenant": said.tenant,
        "adapters": None if said.adapters is None else list(said.adapters),
        "limits": said.limits.document(),
        "prefix": key.prefix,
        "revision": key.revision,
        "created_at": key.created_at.isoformat(),
        "expires_at": said.expires_at and said.expires_at.isoformat(),
        "revoked_at": key.revoked_at and key.revoked_at.isoformat(),
        "last_used_at": key.last_used_at and key.last_used_at.isoformat(),
        "old_secret_until": key.old_secret_until and key.old_secret_until.isoformat(),
    }


def _signature(signature: Signature, trusted: Iterable[TrustedKey]) -> dict[str, str | None]:
    signer = signer_of(signature, trusted)
    return {"public_key": signature.key_text, "signature": signature.value_text, "signer": signer}


def _nearest(tiers: Iterable[str]) -> str:
    return min(tiers, key=lambda tier: _TIERS.get(tier, 1), default="disk")


def _moment(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat()


def _pin_problem(record: VersionRecord, engine: EngineState, why_not_served: WhyNotServed) -> str | None:
    """Why a pinned version is not in memory, as far as somebody knows it."""
    if reason := why_not_served(record):
        return f"{record.ref.id} {reason}"  # no engine is told of it
    if not engine.ready:
        return engine.problem
    problem: str | None = (engine.pins or {}).get(record.ref.id, {}).get("pin_problem")
    return problem
