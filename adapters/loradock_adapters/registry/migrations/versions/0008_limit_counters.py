"""Counters of what is limited, shared by gateways."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "limit_buckets",
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("content", sa.Double(), nullable=False),
        sa.Column("per_second", sa.Double(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("subject", "kind", name="pk_limit_buckets"),
    )
    op.create_table(
        "limit_running",
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("gateway", sa.String(32), nullable=False),
        sa.Column("requests", sa.Integer(), nullable=False),
        sa.Column("until", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("subject", "gateway", name="pk_limit_running"),
    )
    op.create_table(
        "limit_days",
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("day", sa.Integer(), nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("subject", "day", name="pk_limit_days"),
    )


def downgrade() -> None:
    op.drop_table("limit_days")
    op.drop_table("limit_running")
    op.drop_table("limit_buckets")
