"""The usage ledger: sums by hour, key, tenant, adapter and version; how far each gateway has read."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_KEYS = ("hour", "key_id", "tenant", "adapter", "version")
_COUNTS = ("requests", "errors", "aborted", "input_tokens", "output_tokens", "cached_tokens")


def upgrade() -> None:
    op.create_table(
        "usage",
        sa.Column("hour", sa.Integer(), nullable=False),
        sa.Column("key_id", sa.String(255), nullable=False),
        sa.Column("tenant", sa.String(255), nullable=False),
        sa.Column("adapter", sa.String(63), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in _COUNTS),
        sa.PrimaryKeyConstraint(*_KEYS, name="pk_usage"),
    )
    op.create_table(
        "usage_positions",
        sa.Column("gateway", sa.String(64), nullable=False),
        sa.Column("generation", sa.String(64), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("gateway", name="pk_usage_positions"),
    )


def downgrade() -> None:
    op.drop_table("usage_positions")
    op.drop_table("usage")
