"""The registry's tables, as SQLAlchemy sees them. Rows never leave the registry package.

Names are the keys: an adapter is never renamed. Deleting marks rows instead of removing them, so a version
number is never given twice and an old log line's `name@version` can still be explained.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
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


class VersionRow(Table):
    __tablename__ = "adapter_versions"
    __table_args__ = (
        # The same bytes are one version of a name, as long as it exists.
        Index(
            "uq_adapter_versions_name_digest",
            "name",
            "digest",
            unique=True,
            sqlite_where=text("deleted_at IS NULL"),
            postgresql_where=text("deleted_at IS NULL"),
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
    created_at: Mapped[datetime]
    created_by: Mapped[str]
    deleted_at: Mapped[datetime | None]


class AliasRow(Table):
    __tablename__ = "adapter_aliases"
    __table_args__ = (ForeignKeyConstraint(["name", "version"], ["adapter_versions.name", "adapter_versions.number"]),)

    name: Mapped[str] = mapped_column(primary_key=True)
    alias: Mapped[str] = mapped_column(String(63), primary_key=True)
    version: Mapped[int]


class KeyRow(Table):
    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    name: Mapped[str] = mapped_column(String(100))
    scopes: Mapped[list[str]]
    prefix: Mapped[str] = mapped_column(String(16))
    secret_sha256: Mapped[str] = mapped_column(String(64), unique=True)
    created_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]
