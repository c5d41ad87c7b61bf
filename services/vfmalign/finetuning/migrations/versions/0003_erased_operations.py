"""Adds the time at which the erasure of a patient emptied a job, check or experiment."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the column to the three tables."""
    for table in ("jobs", "checks", "experiments"):
        op.add_column(table, sa.Column("erased_at", sa.DateTime(timezone=True)))
