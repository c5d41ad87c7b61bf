"""Entry point of alembic: runs the migrations in this folder."""

from vfmalign.database.schema import run_migrations

run_migrations()
