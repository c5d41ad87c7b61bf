"""Requests of checks and experiments hold smallest relevant differences."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_FIELDS: dict[str, tuple[str, Any]] = {
    "checks": ("smallest_difference", 0.0),
    "experiments": ("smallest_differences", []),
}
"""The new field of each table's requests, with the value that stands for the metrics' own differences."""


def upgrade() -> None:
    """Adds the fields to the stored requests, whose digests follow."""
    for table, (field, value) in _FIELDS.items():
        for row_id, request in _list_requests(table):
            _replace_request(table, row_id, {field: value} | request)


def downgrade() -> None:
    """Removes the fields."""
    for table, (field, _) in _FIELDS.items():
        for row_id, request in _list_requests(table):
            _replace_request(table, row_id, {key: value for key, value in request.items() if key != field})


def _list_requests(table: str) -> list[tuple[str, dict[str, Any]]]:
    rows = sa.table(table, sa.column("id"), sa.column("request", sa.JSON))
    return [(row.id, row.request) for row in op.get_bind().execute(sa.select(rows.c.id, rows.c.request))]


def _replace_request(table: str, row_id: str, request: dict[str, Any]) -> None:
    rows = sa.table(table, sa.column("id"), sa.column("request", sa.JSON), sa.column("request_digest"))
    values = {"request": request, "request_digest": _digest(request)}
    op.get_bind().execute(sa.update(rows).where(rows.c.id == row_id).values(values))


def _digest(request: dict[str, Any]) -> str:
    # A copy of `Record.digest` as it was when this migration was written: migrations do not change with the code.
    canonical = json.dumps(request, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
