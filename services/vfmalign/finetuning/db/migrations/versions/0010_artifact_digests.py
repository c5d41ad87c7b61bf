"""Digests of the artifacts of stages, by which lost and changed ones are recognised."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the digest; it is unknown for stages that finished before."""
    op.add_column("stage_runs", sa.Column("artifact_sha256", sa.String(64), nullable=False, server_default=""))


def downgrade() -> None:
    """Removes the digest."""
    op.drop_column("stage_runs", "artifact_sha256")
