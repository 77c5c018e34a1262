"""The registry's tables, as SQLAlchemy sees them. Rows never leave the registry package.

Names are the keys: an adapter is never renamed. Deleting marks rows instead of removing them, so a version
number is never given twice and an old log line's `name@version` can still be explained. Where an alias has ever
pointed stays as its steps; the alias itself is at one of them.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    String,
    text,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}


class UtcDateTime(TypeDecorator[datetime]):
    """Aware UTC datetimes on every database; SQLite alone would forget the zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Table(DeclarativeBase):
    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map = {datetime: UtcDateTime, dict[str, Any]: JSON, list[str]: JSON}


class StateRow(Table):
    """One row: the number that grows with every change, and the lock that orders writers."""

    __tablename__ = "registry_state"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    revision: Mapped[int] = mapped_column(BigInteger)


class AdapterRow(Table):
    __tablename__ = "adapters"

    name: Mapped[str] = mapped_column(String(63), primary_key=True)
    next_version: Mapped[int]
    created_at: Mapped[datetime]
    deleted_at: Mapped[datetime | None]
    pinned_at: Mapped[datetime | None]
    settings: Mapped[dict[str, Any]] = mapped_column(JSON, server_default="{}")
    revision: Mapped[int] = mapped_column(BigInteger)  # the registry's, when something of this name last changed


class VersionRow(Table):
    __tablename__ = "adapter_versions"
    __table_args__ = (
        # The same bytes are one version of a name, as long as it exists.
        Index(
            "uq_adapter_versions_name_digest",
            "name",
            "digest",
            unique=True,
            sqlite_where=text("state <> 'deleted'"),
            postgresql_where=text("state <> 'deleted'"),
        ),
    )

    name: Mapped[str] = mapped_column(ForeignKey("adapters.name"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    digest: Mapped[str] = mapped_column(String(64), index=True)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    rank: Mapped[int]
    target_modules: Mapped[list[str]]
    base_digest: Mapped[str] = mapped_column(String(64))
    source: Mapped[str]
    manifest: Mapped[dict[str, Any]]
    signature: Mapped[str | None] = mapped_column(String(160))
    created_at: Mapped[datetime]
    created_by: Mapped[str]
    state: Mapped[str] = mapped_column(String(16))
    state_reason: Mapped[str | None]
    state_since: Mapped[datetime]


class EvaluationRow(Table):
    __tablename__ = "adapter_evaluations"
    __table_args__ = (
        ForeignKeyConstraint(["name", "version"], ["adapter_versions.name", "adapter_versions.number"]),
        Index("ix_adapter_evaluations_name_version", "name", "version"),
    )

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    name: Mapped[str] = mapped_column(String(63))
    version: Mapped[int]
    task: Mapped[str] = mapped_column(String(100))
    document: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]
    created_by: Mapped[str]


class AliasStepRow(Table):
    """Where an alias pointed from some moment on; `parent` is the step before it, to which a rollback returns."""

    __tablename__ = "adapter_alias_steps"

    name: Mapped[str] = mapped_column(ForeignKey("adapters.name"), primary_key=True)
    alias: Mapped[str] = mapped_column(String(63), primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    parent: Mapped[int | None]
    created_at: Mapped[datetime]
    created_by: Mapped[str]


class AliasTargetRow(Table):
    __tablename__ = "adapter_alias_targets"
    __table_args__ = (
        ForeignKeyConstraint(
            ["name", "alias", "step"],
            ["adapter_alias_steps.name", "adapter_alias_steps.alias", "adapter_alias_steps.step"],
        ),
        ForeignKeyConstraint(["name", "version"], ["adapter_versions.name", "adapter_versions.number"]),
    )

    name: Mapped[str] = mapped_column(String(63), primary_key=True)
    alias: Mapped[str] = mapped_column(String(63), primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    weight: Mapped[int]


class AliasRow(Table):
    __tablename__ = "adapter_aliases"
    __table_args__ = (
        ForeignKeyConstraint(
            ["name", "alias", "step"],
            ["adapter_alias_steps.name", "adapter_alias_steps.alias", "adapter_alias_steps.step"],
        ),
    )

    name: Mapped[str] = mapped_column(String(63), primary_key=True)
    alias: Mapped[str] = mapped_column(String(63), primary_key=True)
    step: Mapped[int]
    changed_at: Mapped[datetime]
    changed_by: Mapped[str]
    revision: Mapped[int] = mapped_column(BigInteger)


class AuditRow(Table):
    __tablename__ = "audit_events"

    # SQLite counts by itself only in a column that is called INTEGER.
    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    at: Mapped[datetime]
    actor: Mapped[str]
    key_id: Mapped[str]
    origin: Mapped[str]
    action: Mapped[str] = mapped_column(String(32))
    adapter: Mapped[str | None] = mapped_column(String(63), index=True)
    version: Mapped[int | None]
    alias: Mapped[str | None] = mapped_column(String(63))
    before: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    after: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))


class OperationRow(Table):
    __tablename__ = "operations"
    # As often as a caller likes without a key, once with each.
    __table_args__ = (Index("uq_operations_key_id_idempotency_key", "key_id", "idempotency_key", unique=True),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    kind: Mapped[str] = mapped_column(String(32))
    adapter: Mapped[str] = mapped_column(String(63))
    state: Mapped[str] = mapped_column(String(16), index=True)
    stage: Mapped[str] = mapped_column(String(16))
    done: Mapped[int] = mapped_column(BigInteger)
    total: Mapped[int | None] = mapped_column(BigInteger)
    runner: Mapped[str] = mapped_column(String(32))
    beat: Mapped[int] = mapped_column(BigInteger)
    actor: Mapped[str]
    key_id: Mapped[str]
    origin: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(index=True)
    updated_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    idempotency_key: Mapped[str | None] = mapped_column(String(255))
    fingerprint: Mapped[str | None] = mapped_column(String(64))
    answer: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))


class KeyRow(Table):
    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    name: Mapped[str] = mapped_column(String(100))
    scopes: Mapped[list[str]]
    prefix: Mapped[str] = mapped_column(String(16))
    secret_sha256: Mapped[str] = mapped_column(String(64), unique=True)
    created_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]
    tenant: Mapped[str | None] = mapped_column(String(63))
    adapters: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    limits: Mapped[dict[str, Any]] = mapped_column(JSON, server_default="{}")
    revision: Mapped[int] = mapped_column(BigInteger, server_default="0")  # the registry's, when it last changed


class OldSecretRow(Table):
    """A key's secret from before a rotation, as long as it is good."""

    __tablename__ = "api_key_old_secrets"

    secret_sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    key_id: Mapped[str] = mapped_column(ForeignKey("api_keys.id"), index=True)
    ends_at: Mapped[datetime]


class LimitBucketRow(Table):
    """What of a bucket's content was left at `at` (seconds since 1970, this database's clock)."""

    __tablename__ = "limit_buckets"

    subject: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(16), primary_key=True)
    content: Mapped[float] = mapped_column(Double)
    per_second: Mapped[float] = mapped_column(Double)
    at: Mapped[float] = mapped_column(Double)


class LimitRunningRow(Table):
    """Requests that a gateway is answering, to be believed until `until`."""

    __tablename__ = "limit_running"

    subject: Mapped[str] = mapped_column(primary_key=True)
    gateway: Mapped[str] = mapped_column(String(32), primary_key=True)
    requests: Mapped[int]
    until: Mapped[float] = mapped_column(Double)


class LimitDayRow(Table):
    """Tokens charged to a day, counted in days since 1970, UTC."""

    __tablename__ = "limit_days"

    subject: Mapped[str] = mapped_column(primary_key=True)
    day: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    tokens: Mapped[int] = mapped_column(BigInteger)


class UsageRow(Table):
    """Sums of one hour (counted from 1970, UTC); the base model is the adapter `base` with version 0. No foreign keys:
    what was used stays, whatever becomes of key and adapter.
    """

    __tablename__ = "usage"

    hour: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    key_id: Mapped[str] = mapped_column(String(255), primary_key=True)
    tenant: Mapped[str] = mapped_column(String(255), primary_key=True)
    adapter: Mapped[str] = mapped_column(String(63), primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    requests: Mapped[int] = mapped_column(BigInteger)
    errors: Mapped[int] = mapped_column(BigInteger)
    aborted: Mapped[int] = mapped_column(BigInteger)
    input_tokens: Mapped[int] = mapped_column(BigInteger)
    output_tokens: Mapped[int] = mapped_column(BigInteger)
    cached_tokens: Mapped[int] = mapped_column(BigInteger)


class UsagePositionRow(Table):
    """How far what a gateway read of the engine's feed is in the sums; written with them."""

    __tablename__ = "usage_positions"

    gateway: Mapped[str] = mapped_column(String(64), primary_key=True)
    generation: Mapped[str] = mapped_column(String(64))
    seq: Mapped[int] = mapped_column(BigInteger)
    updated_at: Mapped[datetime]
