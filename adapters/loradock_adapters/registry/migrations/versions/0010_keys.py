"""Keys with tenant, adapters, expiry, limits and last use; secrets that end later; `inference` is called `infer`."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_KEYS = sa.table("api_keys", sa.column("id", sa.String), sa.column("scopes", sa.JSON))
_COLUMNS = ("tenant", "adapters", "expires_at", "last_used_at", "limits", "revision")


def upgrade() -> None:
    for column in (
        sa.Column("tenant", sa.String(63), nullable=True),
        sa.Column("adapters", sa.JSON(), nullable=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("limits", sa.JSON(), nullable=False, server_default="{}"),
        sa.Column("revision", sa.BigInteger(), nullable=False, server_default="0"),
    ):
        op.add_column("api_keys", column)
    op.execute("UPDATE api_keys SET revision = (SELECT revision FROM registry_state)")
    op.create_table(
        "api_key_old_secrets",
        sa.Column("secret_sha256", sa.String(64), nullable=False),
        sa.Column("key_id", sa.String(32), nullable=False),
        sa.Column("ends_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("secret_sha256", name="pk_api_key_old_secrets"),
        sa.ForeignKeyConstraint(["key_id"], ["api_keys.id"], name="fk_api_key_old_secrets_key_id"),
    )
    op.create_index("ix_api_key_old_secrets_key_id", "api_key_old_secrets", ["key_id"])
    _rename("inference", "infer")


def downgrade() -> None:
    """What the earlier release would not heed must not open more there: keys with an expiry or with adapters of their
    own are revoked, and secrets that were to end later end now.
    """
    op.execute(
        "UPDATE api_keys SET revoked_at = CURRENT_TIMESTAMP "
        "WHERE revoked_at IS NULL AND (expires_at IS NOT NULL OR adapters IS NOT NULL)"
    )
    op.drop_table("api_key_old_secrets")
    for column in _COLUMNS:
        op.drop_column("api_keys", column)
    _rename("infer", "inference")


def _rename(old: str, new: str) -> None:
    connection = op.get_bind()
    for id, scopes in connection.execute(sa.select(_KEYS.c.id, _KEYS.c.scopes)).all():
        if old in scopes:
            renamed = sorted(new if scope == old else scope for scope in scopes)
            connection.execute(sa.update(_KEYS).where(_KEYS.c.id == id).values(scopes=renamed))
