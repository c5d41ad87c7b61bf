"""Adds the time when a monitor was last resumed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the column. If a monitor was resumed before this version, the time is unknown."""
    op.add_column("monitors", sa.Column("resumed_at", sa.DateTime(timezone=True)))
