"""A migrated database on each engine we serve: SQLite in a file, PostgreSQL as a real server."""

import os
import shutil
import tempfile
import uuid

import pytest

from vfmalign.finetuning.database import Database


@pytest.fixture(scope="session")
def postgres_url():
    """A real PostgreSQL server of this session; returns the URL of a maintenance database."""
    pgserver = pytest.importorskip("pgserver", reason="pgserver is not installed (no wheel for this Python)")
    folder = tempfile.mkdtemp(prefix="vfmalign-pg-")
    if os.getuid() == 0:
        os.chmod(folder, 0o777)
    server = pgserver.get_server(folder, cleanup_mode="delete")
    yield server.get_uri()
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request, tmp_path):
    """URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'finetuning.db'}"
    import sqlalchemy as sa

    server = sa.make_url(request.getfixturevalue("postgres_url"))
    name = f"t{uuid.uuid4().hex}"
    admin = sa.create_engine(server.set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    admin.dispose()
    return server.set(database=name).render_as_string(hide_password=False)


@pytest.fixture
def database(database_url):
    """A migrated database."""
    database = Database(database_url)
    database.migrate()
    yield database
    database.close()
