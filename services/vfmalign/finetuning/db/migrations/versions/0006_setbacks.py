"""What ended the attempts of a job since it last made progress."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_COLUMNS = {"interruptions": "0", "outages": "0", "checkpoint_step": "-1"}


def upgrade() -> None:
    """Adds the counts; earlier versions counted every end as a failure."""
    for name, default in _COLUMNS.items():
        op.add_column("jobs", sa.Column(name, sa.Integer, nullable=False, server_default=default))


def downgrade() -> None:
    """Drops them."""
    for name in _COLUMNS:
        op.drop_column("jobs", name)
