"""Connections to SQLite and PostgreSQL, configured for short transactions of several processes."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import Connection
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import ConnectionPoolEntry

from vfmalign.core.domain.errors import InvalidInput
from vfmalign.database import postgresql

READ_ONLY = "vfmalign_read_only"
"""Execution option of a connection for read-only transactions."""
_OPTIONS = {"hide_parameters": True}  # an error that is logged would name patients


def create_engine(url: str, timeout_s: float) -> sa.Engine:
    """Creates the engine of a database.

    Args:
        url: `sqlite:///<file>` or `postgresql://user:password@host/name`.
        timeout_s: time limit in seconds for a PostgreSQL statement, or for the wait for SQLite's lock.

    Raises:
        InvalidInput: the database is neither SQLite nor PostgreSQL.
    """
    try:
        parsed = sa.make_url(url)
    except ArgumentError as error:
        raise _bad_url() from error
    if parsed.drivername == "sqlite":
        engine = sa.create_engine(parsed, connect_args={"timeout": timeout_s}, **_OPTIONS)
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    if parsed.drivername in {"postgresql", "postgresql+psycopg", "postgres"}:
        url_of_driver = parsed.set(drivername="postgresql+psycopg")
        engine = sa.create_engine(url_of_driver, pool_pre_ping=True, **_OPTIONS)
        event.listen(engine, "do_connect", lambda _, __, args, options: postgresql.connect(timeout_s, *args, **options))
        return engine
    raise _bad_url()


def _bad_url() -> InvalidInput:
    return InvalidInput(
        "unsupported database URL",
        field="VFMALIGN_DATABASE__URL",
        remedy="write sqlite:///<file> or postgresql://user:password@host/name",
    )


def _prepare_sqlite(connection: Any, record: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # turns off the driver's implicit BEGIN, see _begin_sqlite
    for pragma in ("journal_mode=WAL", "foreign_keys=ON", "secure_delete=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    # The driver begins a transaction at the first write only. Two transactions that read first and then write would
    # deadlock, so one that may write takes the write lock at the start. One that reads sees its own snapshot (WAL).
    connection.exec_driver_sql("BEGIN" if connection.get_execution_options().get(READ_ONLY) else "BEGIN IMMEDIATE")
