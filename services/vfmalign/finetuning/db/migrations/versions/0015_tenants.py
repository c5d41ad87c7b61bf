"""Rows belong to tenants, each of which has ids of its own."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import context, op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

_PARENTS = ("jobs", "checks", "experiments")
_CHILDREN = {"job_attempts": ("jobs", "job_id"), "stage_runs": ("checks", "check_id")}


def upgrade() -> None:
    """Adds the column to the primary keys; existing rows belong to the first tenant of the deployment."""
    _rebuild({"tenant": context.config.attributes["tenant"]})
    for table in _PARENTS:
        op.create_index(f"ix_{table}_created", table, ["tenant", "created_at", "id"])
        op.create_index(f"ix_{table}_state", table, ["tenant", "state"])
    op.create_index("ix_jobs_baseline", "jobs", ["baseline"])


def downgrade() -> None:
    """Removes the column; fails where two tenants have the same id."""
    _rebuild({})
    for table in _PARENTS:
        op.create_index(f"ix_{table}_created", table, ["created_at", "id"])
        op.create_index(f"ix_{table}_state", table, ["state"])
    op.create_index("ix_jobs_baseline", "jobs", ["baseline"])


def _rebuild(added: dict[str, str]) -> None:
    """Copies the tables into new ones, because SQLite cannot change a primary key.

    The old ones are dropped when all are copied: dropping a table of SQLite also deletes what refers to it.

    Args:
        added: columns that begin the new primary and foreign keys, and their values in existing rows; without any, the
            column `tenant` is left out.
    """
    first = list(added)
    tables = [*_PARENTS, *_CHILDREN]
    for name in tables:
        old = sa.Table(name, sa.MetaData(), autoload_with=op.get_bind(), resolve_fks=False)
        copied = [column for column in old.columns if column.name != "tenant"]
        key = [column.name for column in old.primary_key if column.name != "tenant"]
        constraints: list[sa.Constraint] = [sa.PrimaryKeyConstraint(*first, *key, name=f"pk_{name}_{len(first + key)}")]
        if name in _CHILDREN:
            parent, column = _CHILDREN[name]
            columns = [f"new_{parent}.{one}" for one in (*first, "id")]
            constraints.append(sa.ForeignKeyConstraint([*first, column], columns, ondelete="CASCADE"))
        copies = [
            sa.Column(one.name, one.type, nullable=one.nullable, server_default=one.server_default) for one in copied
        ]
        begin = [sa.Column(one, sa.String(40), nullable=False) for one in first]
        new = op.create_table(f"new_{name}", *begin, *copies, *constraints)
        names = [one.name for one in copied]
        rows = sa.select(*(sa.literal(value) for value in added.values()), *copied)
        op.execute(sa.insert(new).from_select([*first, *names], rows))
    for name in reversed(tables):
        op.drop_table(name)
    for name in tables:
        op.rename_table(f"new_{name}", name)
