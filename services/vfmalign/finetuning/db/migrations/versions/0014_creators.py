"""Who created a job, check or experiment."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

_TABLES = ("jobs", "checks", "experiments")


def upgrade() -> None:
    """Adds the column, which is empty for existing rows: only admins may cancel those."""
    for table in _TABLES:
        op.add_column(table, sa.Column("created_by", sa.String(1024), nullable=False, server_default=""))


def downgrade() -> None:
    """Removes the column."""
    for table in _TABLES:
        op.drop_column(table, "created_by")
