"""Structured progress and failures in place of a sentence; states and stored requests spelled as in the API."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_TABLES = ("jobs", "checks", "experiments")
_NAMES = {"model": "model_id", "dataset": "dataset_id", "patch_shape_DHW": "patch_shape_dhw"}
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
        _rename_request(table, _NAMES)


def downgrade() -> None:
    """Restores the sentence and the former names."""
    for table in _TABLES:
        _rename_request(table, {new: old for old, new in _NAMES.items()})
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


def _rename_request(table: str, names: dict[str, str]) -> None:
    """Renames fields of the stored requests and recomputes their digests."""
    rows = sa.table(table, sa.column("id"), sa.column("request", sa.JSON), sa.column("request_digest"))
    connection = op.get_bind()
    for row_id, request in connection.execute(sa.select(rows.c.id, rows.c.request)).all():
        # The requests of experiments keep the names of their own fields; their recipes are those of checks.
        renamed = {key: _rename(value, names) for key, value in request.items()}
        if table != "experiments":
            renamed = {names.get(key, key): value for key, value in renamed.items()}
        values = {"request": renamed, "request_digest": _digest(renamed)}
        connection.execute(sa.update(rows).where(rows.c.id == row_id).values(values))


def _rename(value: Any, names: dict[str, str]) -> Any:
    """Renames the fields of a recipe. An unset patch shape was null and is an empty list."""
    if not isinstance(value, dict):
        return value
    renamed = {names.get(key, key): item for key, item in value.items()}
    if renamed.get("patch_shape_dhw", ()) is None:
        renamed["patch_shape_dhw"] = []
    if renamed.get("patch_shape_DHW") == []:
        renamed["patch_shape_DHW"] = None
    return renamed


def _digest(request: dict[str, Any]) -> str:
    # A copy of `Record.digest` as it was when this migration was written: migrations do not change with the code.
    canonical = json.dumps(request, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _progress(phase: str, detail: str) -> dict[str, Any]:
    counts = {"done": 0, "total": 0, "unit": "", "elapsed_seconds": 0.0}
    return {"phase": phase, "detail": detail, "reason": "", **counts}
