"""The lease of the orchestrator that leads."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the table with its one row, a lease that has expired."""
    leases = op.create_table(
        "leases",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("holder", sa.String(128), nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("scope", sa.String(32), nullable=False),
    )
    past = datetime(1970, 1, 1, tzinfo=UTC)
    row = {"name": "orchestrator", "holder": "", "epoch": 0, "expires_at": past, "scope": uuid.uuid4().hex}
    op.bulk_insert(leases, [row])


def downgrade() -> None:
    """Drops the table."""
    op.drop_table("leases")
