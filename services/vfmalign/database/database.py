"""A service's tables in SQLite or PostgreSQL, and the migration of the tables to the newest schema.

A `Database` shows only the rows of one tenant. Sessions add the tenant to every query and to every new row. No query
can therefore read other tenants' rows.
"""

from __future__ import annotations

import copy
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import cache
from typing import Any

import alembic.command
import alembic.util
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlalchemy.orm import (
    LoaderCriteriaOption,
    ORMExecuteState,
    Session,
    sessionmaker,
    with_loader_criteria,
)

from vfmalign.core.domain.errors import Conflict, DataLoss, Unavailable
from vfmalign.core.runtime.auth_settings import DEFAULT_TENANT
from vfmalign.database import metrics
from vfmalign.database.engine import READ_ONLY, create_engine
from vfmalign.database.fair_lock import FairLock
from vfmalign.database.postgresql import unbounded
from vfmalign.database.schema import Schema
from vfmalign.database.settings import DEFAULT_TIMEOUT_S
from vfmalign.database.tables import LeaseRow, TenantRow

_FULL = (sqlite3.SQLITE_FULL, "53100")
"""Error codes of SQLite and PostgreSQL for a full disk."""
_CANCELLED = "57014"
"""Error code of PostgreSQL for a statement that it ended after `statement_timeout`."""
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_TENANT = "vfmalign_tenant"
_MIGRATION_LOCK = 0x76666D  # arbitrary constant; keeps two starting processes from migrating at the same time


class _TenantSession(Session):
    """A session of the tenant in `info`."""


@event.listens_for(_TenantSession, "do_orm_execute")
def _select_tenant(state: ORMExecuteState) -> None:
    tenant = state.session.info[_TENANT]
    if state.is_orm_statement and (state.is_select or state.is_update or state.is_delete):
        state.statement = state.statement.options(_belongs_to(tenant))


@cache
def _belongs_to(tenant: str) -> LoaderCriteriaOption:
    return with_loader_criteria(TenantRow, lambda row: row.tenant == tenant, include_aliases=True)


@event.listens_for(_TenantSession, "before_flush")
def _set_tenant(session: Session, context: Any, instances: Any) -> None:
    for row in session.new:
        if isinstance(row, TenantRow):
            row.tenant = session.info[_TENANT]


class Database:
    """A migrated database, limited to the rows of one tenant.

    Args:
        url: `sqlite:///<file>` or `postgresql://user:password@host/name`.
        schema: schema of the service that owns the database.
        timeout_s: time limit in seconds for a PostgreSQL statement, or for the wait for SQLite's write lock.

    Attributes:
        tenant: owner of the rows; `default` unless `of_tenant` sets another tenant.

    Raises:
        InvalidInput: the database is neither SQLite nor PostgreSQL.
    """

    def __init__(self, url: str, schema: Schema, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        self.tenant, self.schema = DEFAULT_TENANT, schema
        self._engine = create_engine(url, timeout_s)
        self._sessions = sessionmaker(self._engine, class_=_TenantSession, expire_on_commit=False)
        readers = self._engine.execution_options(**{READ_ONLY: True, "postgresql_readonly": True})
        self._snapshots = sessionmaker(readers, class_=_TenantSession, expire_on_commit=False)
        self._verify: Callable[[Session], None] | None = None
        self._turns, self._timeout_s = (FairLock() if self._engine.dialect.name == "sqlite" else None), timeout_s

    @property
    def engine(self) -> sa.Engine:
        """SQLAlchemy engine for tests and tools that read the tables."""
        return self._engine

    def of_tenant(self, tenant: str) -> Database:
        """Returns a view of this database that shows the rows of one tenant."""
        view = copy.copy(self)
        view.tenant = tenant
        return view

    def guarded_by(self, verify: Callable[[Session], None]) -> Database:
        """Returns a view of this database that calls `verify` at the start of every `session`, before any write.

        If `verify` raises, the transaction is rolled back.
        """
        view = copy.copy(self)
        view._verify = verify
        return view

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Runs one transaction that may write. Commits the transaction at the end, or rolls it back after an error.

        Raises:
            DataLoss: the database file is damaged.
            Unavailable: the database cannot be reached, or has ended the transaction.
        """
        with (
            _measure("write"),
            self._take_turn(),
            self._sessions(info={_TENANT: self.tenant}) as session,
            session.begin(),
        ):
            if self._verify is not None:
                self._verify(session)
            yield session

    @contextmanager
    def _take_turn(self) -> Iterator[None]:
        """Waits for other writing transactions of this process, because SQLite has no queue of its own.

        Raises:
            Unavailable: the other transactions took too long.
        """
        if self._turns is None:
            yield
            return
        with ExitStack() as turn:
            try:
                turn.enter_context(self._turns.hold(self._timeout_s))
            except TimeoutError:
                raise _make_unreachable() from None
            yield

    @contextmanager
    def snapshot(self) -> Iterator[Session]:
        """Runs one transaction that only reads.

        The transaction takes no lock and never waits for transactions that write.

        Raises:
            DataLoss: the database file is damaged.
            Unavailable: the database cannot be reached, or has ended the transaction.
        """
        with _measure("read"), self._snapshots(info={_TENANT: self.tenant}) as session, session.begin():
            yield session

    def purge(self) -> bool:
        """Removes deleted and overwritten values from the files of SQLite.

        SQLite keeps such values in its log. PostgreSQL removes such values by itself (`VACUUM`).

        Returns:
            True if no such value is left. False if another connection still reads the log. In this case, call the
            method again later.
        """
        if self._turns is None:
            return True
        with self._take_turn(), closing(self._engine.raw_connection()) as connection:
            busy, *_ = connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return not busy

    def is_outdated(self) -> bool:
        """Returns whether `migrate` would change a schema that an earlier version of the program uses.

        Raises:
            Unavailable: the database cannot be reached.
        """
        with _name_faults(), self._engine.connect() as connection:
            return self.schema.is_earlier(connection)

    def migrate(self) -> None:
        """Migrates the schema to the newest version. You can call this method at every start.

        Raises:
            Conflict: a later version of the program has migrated the schema, or the database has a table of the service
                but no schema version.
            DataLoss: the database file is damaged.
            Unavailable: the database cannot be reached.
        """
        config = self.schema.get_config()
        try:
            with _name_faults(), self._engine.begin() as connection, unbounded(connection):
                if connection.dialect.name == "postgresql":
                    connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
                if self.schema.get_version(connection) is None:
                    _check_names_are_free(connection, self.schema)
                config.attributes["connection"] = connection
                alembic.command.upgrade(config, "head")
        except alembic.util.CommandError as error:  # an unknown revision
            raise Conflict(
                "the database was migrated by a later version",
                subject="VFMALIGN_DATABASE__URL",
                remedy="start that version, or restore the backup from before the upgrade",
            ) from error

    def close(self) -> None:
        """Closes every connection."""
        self._engine.dispose()


def _check_names_are_free(connection: sa.Connection, schema: Schema) -> None:
    own = schema.tables.tables.keys() - {LeaseRow.__tablename__}  # services that share a database share this table
    if taken := own & set(sa.inspect(connection).get_table_names()):
        raise Conflict(
            f"the database has a table {min(taken)} that no released version of this service created",
            subject="VFMALIGN_DATABASE__URL",
            remedy="use an empty database; a database from a version before 0.1.0 cannot be migrated",
        )


@contextmanager
def _measure(access: str) -> Iterator[None]:
    """Measures one transaction, and converts its errors."""
    with metrics.database_seconds.labels(access).time(), _name_faults():
        yield


@contextmanager
def _name_faults() -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        if not isinstance(error, IntegrityError):  # an id was created twice, which callers handle
            metrics.database_errors.inc()
        # The driver's message may contain the URL with its password, so it stays in the chained exception.
        code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF  # the low byte of SQLite's extended codes
        if code in _DAMAGED:
            raise DataLoss(
                "the database is damaged, or is not an SQLite file",
                kind="database",
                subject="VFMALIGN_DATABASE__URL",
                remedy="stop the service and restore the file from a backup, or move it away to start without data",
                reason="DATABASE_DAMAGED",
            ) from error
        if code in _FULL or getattr(error.orig, "sqlstate", None) in _FULL:
            raise Unavailable(
                "the disk of the database is full",
                subject="VFMALIGN_DATABASE__URL",
                remedy="free space on it; the service then continues by itself",
                reason="DATABASE_FULL",
            ) from error
        if getattr(error.orig, "sqlstate", None) == _CANCELLED:
            raise Unavailable(
                "a statement exceeded the time limit of the database",
                subject="VFMALIGN_DATABASE__TIMEOUT_S",
                remedy="try again; if it happens again, find out which lock or load slows the database down",
                reason="DATABASE_TIMEOUT",
            ) from error
        if isinstance(error, OperationalError) or error.connection_invalidated:
            raise _make_unreachable() from error
        raise
    except sa.exc.TimeoutError as error:  # every connection of the pool waits for an answer
        metrics.database_errors.inc()
        raise _make_unreachable() from error


def _make_unreachable() -> Unavailable:
    return Unavailable(
        "the database cannot be reached",
        subject="VFMALIGN_DATABASE__URL",
        remedy="check that it is running and that the user may write to it",
    )
