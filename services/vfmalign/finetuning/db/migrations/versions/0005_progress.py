"""Structured progress and failures in place of a sentence, and states spelled as in the API."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_TABLES = ("jobs", "checks", "experiments")
_PHASES = {"QUEUED": "queued", "RUNNING": "starting"}


def upgrade() -> None:
    """Replaces `message` and `reason` by `progress` and `failure`; the reconciler refreshes what still runs."""
    op.drop_column("checks", "progress")
    op.add_column("checks", sa.Column("stage_progress", sa.JSON, nullable=False, server_default="[]"))
    for table in _TABLES:
        op.add_column(table, sa.Column("progress", sa.JSON, nullable=False, server_default="{}"))
        op.add_column(table, sa.Column("failure", sa.JSON))
        rows = _rows(table, "message", "reason")
        for row in op.get_bind().execute(sa.select(rows)).mappings().all():
            failure = {"reason": row["reason"], "message": row["message"], "exit_code": row.get("exit_code")}
            values: dict[str, Any] = {
                "state": row["state"].lower(),
                "progress": _progress(_PHASES.get(row["state"], "finished"), row["message"]),
                "failure": failure if row["state"] == "FAILED" else sa.null(),
            }
            op.get_bind().execute(sa.update(rows).where(rows.c.id == row["id"]).values(values))
        op.drop_column(table, "message")
        op.drop_column(table, "reason")


def downgrade() -> None:
    """Restores the sentence."""
    for table in _TABLES:
        op.add_column(table, sa.Column("message", sa.Text, nullable=False, server_default=""))
        op.add_column(table, sa.Column("reason", sa.String(64), nullable=False, server_default=""))
        rows = _rows(table, "message", "reason")
        for row in op.get_bind().execute(sa.select(rows)).mappings().all():
            values = {
                "state": row["state"].upper(),
                "message": row["progress"].get("detail", ""),
                "reason": (row["failure"] or {}).get("reason", ""),
            }
            op.get_bind().execute(sa.update(rows).where(rows.c.id == row["id"]).values(values))
        op.drop_column(table, "progress")
        op.drop_column(table, "failure")
    op.drop_column("checks", "stage_progress")
    op.add_column("checks", sa.Column("progress", sa.JSON))


def _rows(table: str, *names: str) -> sa.TableClause:
    columns: list[sa.ColumnClause[Any]] = [sa.column(name) for name in ("id", "state", *names)]
    if table == "jobs":
        columns.append(sa.column("exit_code"))
    return sa.table(table, *columns, sa.column("progress", sa.JSON), sa.column("failure", sa.JSON))


def _progress(phase: str, detail: str) -> dict[str, Any]:
    counts = {"done": 0, "total": 0, "unit": "", "elapsed_seconds": 0.0}
    return {"phase": phase, "detail": detail, "reason": "", **counts}
