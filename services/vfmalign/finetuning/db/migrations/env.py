"""Runs the migrations on the connection that `Database.migrate` hands over."""

from __future__ import annotations

from alembic import context

from vfmalign.finetuning.db.database import Base

connection = context.config.attributes.get("connection")
if connection is None:
    raise SystemExit(
        "migrations run at the service's start: call vfmalign.finetuning.db.database.Database(url).migrate()"
    )
context.configure(connection=connection, target_metadata=Base.metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
