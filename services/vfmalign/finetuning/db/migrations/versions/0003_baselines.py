"""Baselines that several checks share."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Jobs of earlier versions are nobody's baseline but their own."""
    op.add_column("jobs", sa.Column("baseline", sa.String(64), nullable=False, server_default=""))
    op.create_index("ix_jobs_baseline", "jobs", ["baseline"])


def downgrade() -> None:
    """Drops the column."""
    op.drop_index("ix_jobs_baseline", "jobs")
    op.drop_column("jobs", "baseline")
