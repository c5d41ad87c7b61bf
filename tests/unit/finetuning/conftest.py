"""Fixtures: a migrated database on each supported engine, and reports with invented numbers."""

import shutil

import psycopg
import pytest
from tests.check_reports import drawings, make_png, make_report  # noqa: F401 - fixtures

from vfmalign.database.tables import Base
from vfmalign.finetuning.schema import open_database


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory):
    """File of a migrated database without rows, to copy: the migrations take longer than most tests."""
    path = tmp_path_factory.mktemp("migrated") / "finetuning.db"
    database = open_database(f"sqlite:///{path}")
    database.migrate()
    database.close()
    return path


@pytest.fixture(scope="session")
def migrated_postgresql(postgres_url):
    """URL of a migrated database that tests use in turn: creating and deleting one takes longer than most tests."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE migrated")
    url = postgres_url.replace("/postgres?", "/migrated?")
    database = open_database(url)
    database.migrate()
    database.close()
    with psycopg.connect(url) as connection:
        connection.execute("CREATE SCHEMA initial")
        connection.execute("CREATE TABLE initial.leases AS TABLE leases")
    return url


def _delete_rows(url):
    """Ends what an earlier test left open, and deletes all rows but those of the migrations."""
    tables = ", ".join(table.name for table in Base.metadata.sorted_tables)
    with psycopg.connect(url) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        connection.execute(f"TRUNCATE {tables} RESTART IDENTITY CASCADE")
        connection.execute("INSERT INTO leases TABLE initial.leases")


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request, tmp_path):
    """URL of a migrated database without rows."""
    if request.param == "sqlite":
        path = shutil.copy(request.getfixturevalue("migrated_sqlite"), tmp_path / "finetuning.db")
        return f"sqlite:///{path}"
    url = request.getfixturevalue("migrated_postgresql")
    _delete_rows(url)
    return url


@pytest.fixture
def database(database_url):
    """A migrated database."""
    database = open_database(database_url)
    yield database
    database.close()
