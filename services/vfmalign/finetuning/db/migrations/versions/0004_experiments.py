"""Studies become experiments, and relabellings permutations."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Renames the table and the field of stored requests, whose digests follow."""
    _rename_table("studies", "experiments")
    for table in ("checks", "experiments"):
        _rename_field(table, "relabellings", "permutations")


def downgrade() -> None:
    """Restores the former names."""
    for table in ("checks", "experiments"):
        _rename_field(table, "permutations", "relabellings")
    _rename_table("experiments", "studies")


def _rename_table(old: str, new: str) -> None:
    op.drop_index(f"ix_{old}_created", old)
    op.drop_index(f"ix_{old}_state", old)
    op.rename_table(old, new)
    op.create_index(f"ix_{new}_created", new, ["created_at", "id"])
    op.create_index(f"ix_{new}_state", new, ["state"])


def _rename_field(table: str, old: str, new: str) -> None:
    rows = sa.table(table, sa.column("id"), sa.column("request", sa.JSON), sa.column("request_digest"))
    connection = op.get_bind()
    for row_id, request in connection.execute(sa.select(rows.c.id, rows.c.request)).all():
        if old in request:
            renamed = {new if key == old else key: value for key, value in request.items()}
            values = {"request": renamed, "request_digest": _digest(renamed)}
            connection.execute(sa.update(rows).where(rows.c.id == row_id).values(values))


def _digest(request: dict[str, Any]) -> str:
    # A copy of `Record.digest` as it was when this migration was written: migrations do not change with the code.
    canonical = json.dumps(request, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
