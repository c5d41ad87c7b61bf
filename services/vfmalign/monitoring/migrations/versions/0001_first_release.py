"""Tables of monitors, of their epochs, observations and windows, and of the leader's lease."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Creates the tables. The migration adds one expired lease to the table of leases."""
    op.create_table(
        "monitors",
        sa.Column("tenant", sa.String(40), primary_key=True),
        sa.Column("id", sa.String(128), primary_key=True),
        sa.Column("request_digest", sa.String(64), nullable=False),
        sa.Column("request", sa.JSON, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("created_by", sa.String(1024), nullable=False),
        sa.Column("uid", sa.String(32), nullable=False),
        sa.Column("spec", sa.JSON, nullable=False),
        sa.Column("origin", sa.JSON, nullable=False),
        sa.Column("model_id", sa.String(128), nullable=False),
        sa.Column("layers", sa.JSON, nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("snapshot", sa.JSON, nullable=False),
        sa.Column("earlier_snapshot", sa.JSON),
        sa.Column("status", sa.JSON, nullable=False),
        sa.Column("counts", sa.JSON, nullable=False),
        sa.Column("last_observed_at", _TIME),
        sa.Column("last_acquired_at", _TIME),
        sa.Column("lag_s", sa.Double),
    )
    op.create_index("ix_monitors_created", "monitors", ["tenant", "created_at", "id"])
    op.create_index("ix_monitors_state", "monitors", ["tenant", "state"])
    _create_part(
        "monitor_epochs",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("start", sa.String(20), nullable=False),
        sa.Column("has_guarantee", sa.Boolean, nullable=False),
        sa.Column("feature_set_id", sa.String(128), nullable=False),
        sa.Column("manifest_sha256", sa.String(64), nullable=False),
        sa.Column("started_at", _TIME, nullable=False),
        sa.Column("rows", sa.BigInteger, nullable=False),
        sa.Column("alarm", sa.JSON),
    )
    _create_part(
        "monitor_observations",
        sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("observation_id", sa.String(128), nullable=False),
        sa.Column("content_digest", sa.String(64), nullable=False),
        sa.Column("outcome", sa.String(20), nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("row", sa.BigInteger, nullable=False),
        sa.Column("p_value", sa.Double),
        sa.Column("late", sa.Boolean, nullable=False),
        sa.Column("future", sa.Boolean, nullable=False),
        sa.Column("raised_alarm", sa.Boolean, nullable=False),
        sa.Column("received_at", _TIME, nullable=False),
        sa.Column("acquired_at", _TIME),
        sa.Column("log_rows", sa.Double),
        sa.Column("log_blocks_4", sa.Double),
        sa.Column("log_blocks_16", sa.Double),
        sa.UniqueConstraint("tenant", "monitor_id", "observation_id", name="uq_monitor_observations_id"),
    )
    op.create_index("ix_monitor_observations_row", "monitor_observations", ["tenant", "monitor_id", "epoch", "row"])
    _create_part(
        "monitor_inputs",
        sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("patient", sa.String(128), nullable=False),
        sa.Column("stratum", sa.String(64), nullable=False),
        sa.Column("day", sa.Integer, nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("row", sa.BigInteger, nullable=False),
        sa.Column("features", sa.LargeBinary, nullable=False),
    )
    _create_part(
        "monitor_windows",
        sa.Column("epoch", sa.Integer, primary_key=True),
        sa.Column("last_row", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("computed_at", _TIME, nullable=False),
        sa.Column("shifts", sa.JSON, nullable=False),
        sa.Column("channels", sa.JSON, nullable=False),
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
    row = {"name": "monitoring", "holder": "", "epoch": 0, "expires_at": past, "scope": uuid.uuid4().hex}
    op.bulk_insert(leases, [row])


def _create_part(name: str, *columns: sa.schema.SchemaItem) -> None:
    op.create_table(
        name,
        sa.Column("tenant", sa.String(40), primary_key=True),
        sa.Column("monitor_id", sa.String(128), primary_key=True),
        *columns,
        sa.ForeignKeyConstraint(["tenant", "monitor_id"], ["monitors.tenant", "monitors.id"], ondelete="CASCADE"),
    )
