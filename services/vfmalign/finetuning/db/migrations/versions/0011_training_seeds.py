"""Requests of checks hold the number of their training seeds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds one seed to the stored requests, whose digests follow."""
    _convert_requests(lambda request: {"seeds": 1} | request)


def downgrade() -> None:
    """Removes the number."""
    _convert_requests(lambda request: {key: value for key, value in request.items() if key != "seeds"})


def _convert_requests(convert: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    rows = sa.table("checks", sa.column("id"), sa.column("request", sa.JSON), sa.column("request_digest"))
    connection = op.get_bind()
    for row_id, request in connection.execute(sa.select(rows.c.id, rows.c.request)).all():
        converted = convert(request)
        values = {"request": converted, "request_digest": _digest(converted)}
        connection.execute(sa.update(rows).where(rows.c.id == row_id).values(values))


def _digest(request: dict[str, Any]) -> str:
    # A copy of `Record.digest` as it was when this migration was written: migrations do not change with the code.
    canonical = json.dumps(request, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
