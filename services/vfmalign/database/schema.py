"""The schema of a service: its tables and their migrations.

Each service has its own version table, so that several services can share one database.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from alembic import context
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine import Connection


@dataclass(frozen=True)
class Schema:
    """The schema of one service.

    Attributes:
        service: short name, such as `finetuning`.
        migrations: folder of alembic's migrations, as `package:folder`.
        tables: tables of the service.
        lease: name of the lease of the service's leader.
    """

    service: str
    migrations: str
    tables: sa.MetaData
    lease: str

    @property
    def version_table(self) -> str:
        """Name of the table that contains the version of this schema."""
        return f"{self.service}_version"

    def get_config(self) -> Config:
        """Returns the configuration with which alembic finds the migrations."""
        config = Config()
        config.set_main_option("script_location", self.migrations)
        config.attributes["schema"] = self
        return config

    def get_version(self, connection: Connection) -> str | None:
        """Returns the version of a database's schema, or None if the database was never migrated."""
        return MigrationContext.configure(connection, opts={"version_table": self.version_table}).get_current_revision()

    def is_earlier(self, connection: Connection) -> bool:
        """Returns whether the schema of a database is older than the newest version in this program."""
        script = ScriptDirectory.from_config(self.get_config())
        earlier = {one.revision for one in script.walk_revisions()} - {script.get_current_head()}
        return self.get_version(connection) in earlier


def run_migrations() -> None:
    """Runs the migrations on the connection that `Database.migrate` passes. Each `env.py` calls this function."""
    attributes = context.config.attributes
    if "connection" not in attributes:
        raise SystemExit("migrations run when the service starts; do not call alembic")
    context.configure(connection=attributes["connection"], version_table=attributes["schema"].version_table)
    with context.begin_transaction():
        context.run_migrations()
