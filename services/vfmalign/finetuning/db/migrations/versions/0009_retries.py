"""How often, and when last, a client queued an ended operation again."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_TABLES = ("jobs", "checks", "experiments")


def upgrade() -> None:
    """Adds the columns."""
    for table in _TABLES:
        op.add_column(table, sa.Column("retries", sa.Integer, nullable=False, server_default="0"))
        op.add_column(table, sa.Column("retried_at", sa.DateTime(timezone=True)))


def downgrade() -> None:
    """Drops them."""
    for table in _TABLES:
        op.drop_column(table, "retried_at")
        op.drop_column(table, "retries")
