"""State `pending` of launched jobs whose process has not started, and the id of the request that created a job."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_JOBS = sa.table(
    "jobs",
    *(sa.column(name) for name in ("id", "state", "attempts", "started_at", "created_at")),
    sa.column("progress", sa.JSON),
)


def upgrade() -> None:
    """Makes running jobs pending whose progress says that they wait; in a first attempt, they have not started yet."""
    op.add_column("jobs", sa.Column("request_id", sa.String(64), nullable=False, server_default=""))
    connection = op.get_bind()
    rows = sa.select(_JOBS.c.id, _JOBS.c.attempts, _JOBS.c.progress).where(_JOBS.c.state == "running")
    for row in connection.execute(rows).all():
        if row.progress.get("phase") != "starting":
            continue
        values = {"state": "pending", "progress": row.progress | {"phase": "pending"}}
        if row.attempts == 1:
            values["started_at"] = sa.null()
        connection.execute(sa.update(_JOBS).where(_JOBS.c.id == row.id).values(values))


def downgrade() -> None:
    """Makes pending jobs running, started when they were created."""
    connection = op.get_bind()
    rows = sa.select(_JOBS.c.id, _JOBS.c.progress).where(_JOBS.c.state == "pending")
    for row in connection.execute(rows).all():
        values = {
            "state": "running",
            "progress": row.progress | {"phase": "starting"},
            "started_at": sa.func.coalesce(_JOBS.c.started_at, _JOBS.c.created_at),
        }
        connection.execute(sa.update(_JOBS).where(_JOBS.c.id == row.id).values(values))
    op.drop_column("jobs", "request_id")
