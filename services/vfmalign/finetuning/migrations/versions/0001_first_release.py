"""Tables of jobs, checks and experiments, of their attempts and stage runs, and of the orchestrator's lease."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Creates the tables. The table of leases gets one expired lease."""
    _create_lifecycle_table(
        "jobs",
        sa.Column("check_id", sa.String(128), nullable=False),
        sa.Column("request_id", sa.String(64), nullable=False),
        sa.Column("spec", sa.JSON, nullable=False),
        sa.Column("baseline", sa.String(64), nullable=False, index=True),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("interruptions", sa.Integer, nullable=False),
        sa.Column("outages", sa.Integer, nullable=False),
        sa.Column("checkpoint_step", sa.Integer, nullable=False),
        sa.Column("not_before", _TIME),
        sa.Column("handle", sa.JSON),
        sa.Column("curve", sa.JSON, nullable=False),
        sa.Column("exit_code", sa.Integer),
        sa.Column("result", sa.JSON),
    )
    _create_lifecycle_table(
        "checks", sa.Column("stage_progress", sa.JSON, nullable=False), sa.Column("report", sa.JSON)
    )
    _create_lifecycle_table(
        "experiments",
        sa.Column("pinned_inputs", sa.JSON, nullable=False),
        sa.Column("restored_cells", sa.JSON, nullable=False),
        sa.Column("report", sa.JSON),
    )
    op.create_table(
        "job_attempts",
        sa.Column("tenant", sa.String(40), primary_key=True),
        sa.Column("job_id", sa.String(128), primary_key=True),
        sa.Column("attempt", sa.Integer, primary_key=True),
        sa.Column("started_at", _TIME, nullable=False),
        sa.Column("finished_at", _TIME),
        sa.Column("exit_code", sa.Integer),
        sa.Column("outcome", sa.String(16), nullable=False),
        _belongs_to("jobs", "job_id"),
    )
    op.create_table(
        "stage_runs",
        sa.Column("tenant", sa.String(40), primary_key=True),
        sa.Column("check_id", sa.String(128), primary_key=True),
        sa.Column("stage", sa.String(64), primary_key=True),
        sa.Column("attempt", sa.Integer, primary_key=True),
        sa.Column("started_at", _TIME, nullable=False),
        sa.Column("finished_at", _TIME),
        sa.Column("seconds", sa.Double),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("artifact_sha256", sa.String(64), nullable=False),
        _belongs_to("checks", "check_id"),
    )
    leases = op.create_table(
        "leases",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("holder", sa.String(128), nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("expires_at", _TIME, nullable=False),
        sa.Column("scope", sa.String(32), nullable=False),
        if_not_exists=True,  # services that share a database share this table
    )
    past = datetime(1970, 1, 1, tzinfo=UTC)
    row = {"name": "orchestrator", "holder": "", "epoch": 0, "expires_at": past, "scope": uuid.uuid4().hex}
    op.bulk_insert(leases, [row])


def _create_lifecycle_table(name: str, *columns: sa.Column[Any]) -> None:
    op.create_table(
        name,
        sa.Column("tenant", sa.String(40), primary_key=True),
        sa.Column("id", sa.String(128), primary_key=True),
        sa.Column("request_digest", sa.String(64), nullable=False),
        sa.Column("request", sa.JSON, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("progress", sa.JSON, nullable=False),
        sa.Column("failure", sa.JSON),
        sa.Column("cancel_requested", sa.Boolean, nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("started_at", _TIME),
        sa.Column("finished_at", _TIME),
        sa.Column("retries", sa.Integer, nullable=False),
        sa.Column("retried_at", _TIME),
        sa.Column("created_by", sa.String(1024), nullable=False),
        *columns,
    )
    op.create_index(f"ix_{name}_created", name, ["tenant", "created_at", "id"])
    op.create_index(f"ix_{name}_state", name, ["tenant", "state"])


def _belongs_to(table: str, column: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(["tenant", column], [f"{table}.tenant", f"{table}.id"], ondelete="CASCADE")
