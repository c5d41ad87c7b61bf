"""Adds the caller for whom the service created a job or a check."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the column to the three tables. It stays empty in existing rows."""
    for table in ("jobs", "checks", "experiments"):
        op.add_column(table, sa.Column("on_behalf_of", sa.String(1024)))
