"""States of versions, aliases with weights and a history, and the audit events."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_UNIQUE = "uq_adapter_versions_name_digest"


def upgrade() -> None:
    op.add_column("adapters", sa.Column("revision", sa.BigInteger(), nullable=False, server_default="0"))
    op.execute("UPDATE adapters SET revision = (SELECT revision FROM registry_state)")
    _upgrade_versions()
    op.create_table(
        "audit_events",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("key_id", sa.String(), nullable=False),
        sa.Column("origin", sa.String(), nullable=False),
        sa.Column("action", sa.String(32), nullable=False),
        sa.Column("adapter", sa.String(63), nullable=True),
        sa.Column("version", sa.Integer(), nullable=True),
        sa.Column("alias", sa.String(63), nullable=True),
        sa.Column("before", sa.JSON(), nullable=True),
        sa.Column("after", sa.JSON(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_audit_events"),
    )
    op.create_index("ix_audit_events_adapter", "audit_events", ["adapter"])
    _upgrade_aliases()


def _upgrade_versions() -> None:
    op.drop_index(_UNIQUE, "adapter_versions")
    for column in (
        # SQLite adds no column that has to be filled without a default; none of ours is ever left to it.
        sa.Column("state", sa.String(16), nullable=False, server_default="failed"),
        sa.Column("state_reason", sa.String(), nullable=True),
        sa.Column("state_since", sa.DateTime(timezone=True), nullable=False, server_default="1970-01-01 00:00:00"),
    ):
        op.add_column("adapter_versions", column)
    op.execute(
        "UPDATE adapter_versions SET state = CASE WHEN deleted_at IS NULL THEN 'ready' ELSE 'deleted' END, "
        "state_since = COALESCE(deleted_at, created_at)"
    )
    op.drop_column("adapter_versions", "deleted_at")
    op.create_index(
        _UNIQUE,
        "adapter_versions",
        ["name", "digest"],
        unique=True,
        sqlite_where=sa.text("state <> 'deleted'"),
        postgresql_where=sa.text("state <> 'deleted'"),
    )


def _upgrade_aliases() -> None:
    op.rename_table("adapter_aliases", "old_aliases")
    if op.get_bind().dialect.name == "postgresql":  # which keeps the names of constraints for itself
        op.execute("ALTER TABLE old_aliases RENAME CONSTRAINT pk_adapter_aliases TO pk_old_aliases")
    op.create_table(
        "adapter_alias_steps",
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("alias", sa.String(63), nullable=False),
        sa.Column("step", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("parent", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("name", "alias", "step", name="pk_adapter_alias_steps"),
        sa.ForeignKeyConstraint(["name"], ["adapters.name"], name="fk_adapter_alias_steps_name"),
    )
    steps = ["adapter_alias_steps.name", "adapter_alias_steps.alias", "adapter_alias_steps.step"]
    op.create_table(
        "adapter_alias_targets",
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("alias", sa.String(63), nullable=False),
        sa.Column("step", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("weight", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name", "alias", "step", "version", name="pk_adapter_alias_targets"),
        sa.ForeignKeyConstraint(["name", "alias", "step"], steps, name="fk_adapter_alias_targets_name_alias_step"),
        sa.ForeignKeyConstraint(
            ["name", "version"],
            ["adapter_versions.name", "adapter_versions.number"],
            name="fk_adapter_alias_targets_name_version",
        ),
    )
    op.create_table(
        "adapter_aliases",
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("alias", sa.String(63), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("changed_by", sa.String(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", "alias", name="pk_adapter_aliases"),
        sa.ForeignKeyConstraint(["name", "alias", "step"], steps, name="fk_adapter_aliases_name_alias_step"),
    )
    # When and by whom was not kept so far: the version's own creation is the nearest that is known.
    version = "adapter_versions v ON v.name = o.name AND v.number = o.version"
    op.execute(
        "INSERT INTO adapter_alias_steps (name, alias, step, parent, created_at, created_by) "
        f"SELECT o.name, o.alias, 1, NULL, v.created_at, v.created_by FROM old_aliases o JOIN {version}"
    )
    op.execute(
        "INSERT INTO adapter_alias_targets (name, alias, step, version, weight) "
        "SELECT name, alias, 1, version, 1 FROM old_aliases"
    )
    op.execute(
        "INSERT INTO adapter_aliases (name, alias, step, changed_at, changed_by, revision) "
        "SELECT o.name, o.alias, 1, v.created_at, v.created_by, (SELECT revision FROM registry_state) "
        f"FROM old_aliases o JOIN {version}"
    )
    op.drop_table("old_aliases")


def downgrade() -> None:
    """What the earlier release has no place for goes: failed, unfinished and retired versions as deleted ones, of a
    split its heaviest version, history and audit altogether.
    """
    op.rename_table("adapter_aliases", "new_aliases")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER TABLE new_aliases RENAME CONSTRAINT pk_adapter_aliases TO pk_new_aliases")
    op.create_table(
        "adapter_aliases",
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("alias", sa.String(63), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name", "alias", name="pk_adapter_aliases"),
        sa.ForeignKeyConstraint(
            ["name", "version"],
            ["adapter_versions.name", "adapter_versions.number"],
            name="fk_adapter_aliases_name_version",
        ),
    )
    op.execute(
        "INSERT INTO adapter_aliases (name, alias, version) SELECT a.name, a.alias, ("
        "SELECT t.version FROM adapter_alias_targets t WHERE t.name = a.name AND t.alias = a.alias AND t.step = a.step "
        "ORDER BY t.weight DESC, t.version DESC LIMIT 1) FROM new_aliases a"
    )
    for table in ("new_aliases", "adapter_alias_targets", "adapter_alias_steps", "audit_events"):
        op.drop_table(table)
    op.drop_index(_UNIQUE, "adapter_versions")
    op.add_column("adapter_versions", sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True))
    op.execute("UPDATE adapter_versions SET deleted_at = state_since WHERE state <> 'ready'")
    for column in ("state", "state_reason", "state_since"):
        op.drop_column("adapter_versions", column)
    op.create_index(
        _UNIQUE,
        "adapter_versions",
        ["name", "digest"],
        unique=True,
        sqlite_where=sa.text("deleted_at IS NULL"),
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.drop_column("adapters", "revision")
