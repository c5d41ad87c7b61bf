"""Versions of the schema, one file each in `versions`."""

from __future__ import annotations

from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine import Connection


def get_config() -> Config:
    """Returns the configuration with which alembic finds the versions."""
    config = Config()
    config.set_main_option("script_location", "vfmalign.finetuning.db:migrations")
    return config


def is_earlier(connection: Connection) -> bool:
    """Returns whether a database has an earlier version of the schema than the newest one here."""
    script = ScriptDirectory.from_config(get_config())
    current = MigrationContext.configure(connection).get_current_revision()
    return current in {one.revision for one in script.walk_revisions()} - {script.get_current_head()}
