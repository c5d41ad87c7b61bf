"""What alembic runs: the migrations of this folder."""

from vfmalign.database.schema import run_migrations

run_migrations()
