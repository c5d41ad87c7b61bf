"""Experiments remember the cells whose results were there before their checks began."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the list, which is empty for existing experiments."""
    op.add_column("experiments", sa.Column("restored_cells", sa.JSON, nullable=False, server_default="[]"))


def downgrade() -> None:
    """Removes the list."""
    op.drop_column("experiments", "restored_cells")
