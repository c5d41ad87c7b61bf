"""Studies become experiments, relabellings permutations, and requests of experiments specs of the API."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
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
    op.alter_column("experiments", "fixed", new_column_name="pinned_inputs")
    _convert_requests("experiments", _to_experiment_spec)


def downgrade() -> None:
    """Restores the former names."""
    _convert_requests("experiments", _from_experiment_spec)
    op.alter_column("experiments", "pinned_inputs", new_column_name="fixed")
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
    _convert_requests(table, lambda request: {new if key == old else key: value for key, value in request.items()})


def _to_experiment_spec(request: dict[str, Any]) -> dict[str, Any]:
    names = {"models": "model_ids", "dataset": "dataset_id"}
    recipe = dict(request["recipe"])
    recipe["patch_shape_dhw"] = recipe.pop("patch_shape_DHW") or []
    return {names.get(key, key): value for key, value in request.items()} | {"recipe": recipe}


def _from_experiment_spec(spec: dict[str, Any]) -> dict[str, Any]:
    names = {"model_ids": "models", "dataset_id": "dataset"}
    recipe = dict(spec["recipe"])
    if "patch_shape_dhw" in recipe:
        recipe["patch_shape_DHW"] = recipe.pop("patch_shape_dhw") or None
    return {names.get(key, key): value for key, value in spec.items()} | {"recipe": recipe}


def _convert_requests(table: str, convert: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    rows = sa.table(table, sa.column("id"), sa.column("request", sa.JSON), sa.column("request_digest"))
    connection = op.get_bind()
    for row_id, request in connection.execute(sa.select(rows.c.id, rows.c.request)).all():
        converted = convert(request)
        values = {"request": converted, "request_digest": _digest(converted)}
        connection.execute(sa.update(rows).where(rows.c.id == row_id).values(values))


def _digest(request: dict[str, Any]) -> str:
    # A copy of `Record.digest` as it was when this migration was written: migrations do not change with the code.
    canonical = json.dumps(request, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
