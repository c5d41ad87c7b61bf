"""Versions of the schema, one file each in `versions`. A released version never changes: add the next one."""

from __future__ import annotations

from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine import Connection

VERSION_TABLE = "finetuning_version"
"""Table with the version of this service's schema. Other services in the same database have their own."""


def get_config() -> Config:
    """Returns the configuration with which alembic finds the versions."""
    config = Config()
    config.set_main_option("script_location", "vfmalign.finetuning.db:migrations")
    return config


def get_version(connection: Connection) -> str | None:
    """Returns the version of a database's schema; None where it was never migrated."""
    return MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()


def is_earlier(connection: Connection) -> bool:
    """Returns whether a database has an earlier version of the schema than the newest one here."""
    script = ScriptDirectory.from_config(get_config())
    return get_version(connection) in {one.revision for one in script.walk_revisions()} - {script.get_current_head()}
