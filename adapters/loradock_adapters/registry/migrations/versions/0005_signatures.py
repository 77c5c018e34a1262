"""Who signed a version's bytes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("adapter_versions", sa.Column("signature", sa.String(160), nullable=True))


def downgrade() -> None:
    op.drop_column("adapter_versions", "signature")
