"""Tables of the orchestrator in SQLite or PostgreSQL, and their migration to the newest schema.

Times are timezone-aware UTC in both databases. The repositories of jobs, checks and experiments define the states and
their transitions.

A `Database` shows the rows of one tenant. Its sessions add the tenant to every query and to every new row, so that no
query can forget it.
"""

from __future__ import annotations

import copy
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import alembic.command
import alembic.util
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    ORMExecuteState,
    Session,
    declared_attr,
    mapped_column,
    sessionmaker,
    with_loader_criteria,
)

from vfmalign.core.domain.errors import Conflict, DataLoss, Unavailable
from vfmalign.core.runtime.auth_settings import DEFAULT_TENANT
from vfmalign.finetuning import metrics
from vfmalign.finetuning.db.engine import READ_ONLY, create_engine
from vfmalign.finetuning.db.migrations import get_config, get_version, is_earlier

_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_TENANT = "vfmalign_tenant"
_MIGRATION_LOCK = 0x76666D  # arbitrary constant; keeps two starting processes from migrating at the same time


class UtcDateTime(sa.TypeDecorator[datetime]):
    """A point in time: timezone-aware when written, UTC when read."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Rejects naive times."""
        if value is not None and value.tzinfo is None:
            raise ValueError("expected a time with a timezone, got a naive one")
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Adds the zone, which SQLite does not store; stored times are always UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    """Base of the tables."""

    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy reads it once
        datetime: UtcDateTime,
        dict[str, Any]: sa.JSON(none_as_null=True),
    }


class TenantRow(Base):
    """A row that belongs to a tenant. Sessions of other tenants neither see nor write it."""

    __abstract__ = True

    tenant: Mapped[str] = mapped_column(sa.String(40), primary_key=True, sort_order=-1)


class LifecycleRow(TenantRow):
    """Columns of every table whose rows are created once, run, and end: jobs, checks and experiments.

    Attributes:
        request: as the client sent it; its digest makes creation idempotent.
        progress: `Progress` as JSON.
        failure: `Failure` as JSON, where the state is `failed`.
        retries, retried_at: how often, and when last, it was queued again by a client.
        created_by: key of the identity that created it; empty for what the service created itself.
    """

    __abstract__ = True

    id: Mapped[str] = mapped_column(sa.String(128), primary_key=True)
    request_digest: Mapped[str] = mapped_column(sa.String(64))
    request: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(sa.String(16))
    progress: Mapped[dict[str, Any]] = mapped_column(sa.JSON, default=dict)
    failure: Mapped[dict[str, Any] | None]
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    retries: Mapped[int] = mapped_column(default=0)
    retried_at: Mapped[datetime | None]
    created_by: Mapped[str] = mapped_column(sa.String(1024), default="")

    @declared_attr.directive
    @classmethod
    def __table_args__(cls) -> tuple[sa.Index, ...]:
        """Indexes for lists by time and by state."""
        name = cls.__tablename__
        created = sa.Index(f"ix_{name}_created", "tenant", "created_at", "id")
        return created, sa.Index(f"ix_{name}_state", "tenant", "state")


def _belongs_to(table: str, column: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(["tenant", column], [f"{table}.tenant", f"{table}.id"], ondelete="CASCADE")


class JobRow(LifecycleRow):
    """One job; the fields are those of `jobs.repository.StoredJob`."""

    __tablename__ = "jobs"

    check_id: Mapped[str] = mapped_column(sa.String(128), default="")
    request_id: Mapped[str] = mapped_column(sa.String(64), default="")
    spec: Mapped[dict[str, Any]]
    baseline: Mapped[str] = mapped_column(sa.String(64), default="", index=True)
    attempts: Mapped[int] = mapped_column(default=0)
    failures: Mapped[int] = mapped_column(default=0)
    interruptions: Mapped[int] = mapped_column(default=0)
    outages: Mapped[int] = mapped_column(default=0)
    checkpoint_step: Mapped[int] = mapped_column(default=-1)
    not_before: Mapped[datetime | None]
    handle: Mapped[dict[str, Any] | None]
    curve: Mapped[list[Any]] = mapped_column(sa.JSON, default=list)
    exit_code: Mapped[int | None]
    result: Mapped[dict[str, Any] | None]


class AttemptRow(TenantRow):
    """One attempt of a job, so that it is known what ran how often."""

    __tablename__ = "job_attempts"
    __table_args__ = (_belongs_to("jobs", "job_id"),)

    job_id: Mapped[str] = mapped_column(sa.String(128), primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    exit_code: Mapped[int | None]
    outcome: Mapped[str] = mapped_column(sa.String(16))


class CheckRow(LifecycleRow):
    """One alignment check; the fields are those of `checks.repository.StoredCheck`."""

    __tablename__ = "checks"

    stage_progress: Mapped[list[Any]] = mapped_column(sa.JSON, default=list)
    report: Mapped[dict[str, Any] | None]


class StageRow(TenantRow):
    """One run of a stage of a check, so that it is known that no finished stage ran twice."""

    __tablename__ = "stage_runs"
    __table_args__ = (_belongs_to("checks", "check_id"),)

    check_id: Mapped[str] = mapped_column(sa.String(128), primary_key=True)
    stage: Mapped[str] = mapped_column(sa.String(64), primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    seconds: Mapped[float | None] = mapped_column(sa.Double)
    outcome: Mapped[str] = mapped_column(sa.String(16))
    message: Mapped[str] = mapped_column(sa.Text, default="")
    artifact_sha256: Mapped[str] = mapped_column(sa.String(64), default="")


class ExperimentRow(LifecycleRow):
    """One experiment; see `experiments.repository.StoredExperiment` for the fields. Its cells are rows of `checks`."""

    __tablename__ = "experiments"

    pinned_inputs: Mapped[dict[str, Any]]
    restored_cells: Mapped[list[str]] = mapped_column(sa.JSON, default=list)
    report: Mapped[dict[str, Any] | None]


class LeaseRow(Base):
    """A lease, which one process holds at a time; `lease.Lease` defines its rules.

    Attributes:
        holder: the process that holds it, or held it last.
        epoch: how often it was acquired.
        expires_at: by the database's clock.
        scope: random id of this database. It names what holders lock outside of it.
    """

    __tablename__ = "leases"

    name: Mapped[str] = mapped_column(sa.String(64), primary_key=True)
    holder: Mapped[str] = mapped_column(sa.String(128))
    epoch: Mapped[int] = mapped_column(sa.BigInteger)
    expires_at: Mapped[datetime]
    scope: Mapped[str] = mapped_column(sa.String(32))


class _TenantSession(Session):
    """A session of the tenant in `info`."""


@event.listens_for(_TenantSession, "do_orm_execute")
def _select_tenant(state: ORMExecuteState) -> None:
    tenant = state.session.info[_TENANT]
    if state.is_orm_statement and (state.is_select or state.is_update or state.is_delete):
        belongs = with_loader_criteria(TenantRow, lambda row: row.tenant == tenant, include_aliases=True)
        state.statement = state.statement.options(belongs)


@event.listens_for(_TenantSession, "before_flush")
def _set_tenant(session: Session, context: Any, instances: Any) -> None:
    for row in session.new:
        if isinstance(row, TenantRow):
            row.tenant = session.info[_TENANT]


class Database:
    """A migrated database, with the rows of one tenant.

    Args:
        url: `sqlite:///<file>` or `postgresql://user:password@host/name`.

    Attributes:
        tenant: whose rows these are; `default` unless `of_tenant` says otherwise.

    Raises:
        InvalidInput: the URL names another kind of database.
    """

    def __init__(self, url: str) -> None:
        self.tenant = DEFAULT_TENANT
        self._engine = create_engine(url)
        self._sessions = sessionmaker(self._engine, class_=_TenantSession, expire_on_commit=False)
        readers = self._engine.execution_options(**{READ_ONLY: True, "postgresql_readonly": True})
        self._snapshots = sessionmaker(readers, class_=_TenantSession, expire_on_commit=False)
        self._verify: Callable[[Session], None] | None = None

    @property
    def engine(self) -> sa.Engine:
        """Engine, for tests and tools that read the tables."""
        return self._engine

    def of_tenant(self, tenant: str) -> Database:
        """Returns a view of this database with the rows of a tenant alone."""
        view = copy.copy(self)
        view.tenant = tenant
        return view

    def guarded_by(self, verify: Callable[[Session], None]) -> Database:
        """Returns a view of this database that calls `verify` at the start of every `session`, so of all that writes.

        An error of `verify` rolls the transaction back.
        """
        view = copy.copy(self)
        view._verify = verify
        return view

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Runs one transaction that may write: committed at the end, rolled back on an error.

        Raises:
            DataLoss: the file of the database is damaged.
            Unavailable: the database cannot be reached, or has ended the transaction.
        """
        with _measure("write"), self._sessions(info={_TENANT: self.tenant}) as session, session.begin():
            if self._verify is not None:
                self._verify(session)
            yield session

    @contextmanager
    def snapshot(self) -> Iterator[Session]:
        """Runs one transaction that only reads. It takes no lock and never waits for a transaction that writes.

        Raises:
            DataLoss: the file of the database is damaged.
            Unavailable: the database cannot be reached, or has ended the transaction.
        """
        with _measure("read"), self._snapshots(info={_TENANT: self.tenant}) as session, session.begin():
            yield session

    def is_outdated(self) -> bool:
        """Returns whether `migrate` would change the schema that an earlier version of the program uses.

        Raises:
            Unavailable: the database cannot be reached.
        """
        with _name_faults(), self._engine.connect() as connection:
            return is_earlier(connection)

    def migrate(self) -> None:
        """Migrates the schema to the newest version; safe to run at every start.

        Raises:
            Conflict: a later version of the program has migrated it, or it has a table of the service but no version.
            DataLoss: the file of the database is damaged.
            Unavailable: the database cannot be reached.
        """
        config = get_config()
        try:
            with _name_faults(), self._engine.begin() as connection:
                if connection.dialect.name == "postgresql":
                    connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
                if get_version(connection) is None:
                    _check_names_are_free(connection)
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


def now() -> datetime:
    """Current time in UTC."""
    return datetime.now(UTC)


def _check_names_are_free(connection: sa.Connection) -> None:
    if taken := Base.metadata.tables.keys() & set(sa.inspect(connection).get_table_names()):
        raise Conflict(
            f"the database has a table {min(taken)} that no released version of this service created",
            subject="VFMALIGN_DATABASE__URL",
            remedy="name an empty database; one of a development version before 0.1.0 cannot be migrated",
        )


@contextmanager
def _measure(access: str) -> Iterator[None]:
    """Measures one transaction, and names its faults."""
    with metrics.database_seconds.labels(access).time(), _name_faults():
        yield


@contextmanager
def _name_faults() -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        if not isinstance(error, IntegrityError):  # of two creations of one id, which are answered
            metrics.database_errors.inc()
        # The driver's message may contain the URL with its password, so it stays in the chained exception.
        if getattr(error.orig, "sqlite_errorcode", 0) & 0xFF in _DAMAGED:  # the low byte of SQLite's extended codes
            raise DataLoss(
                "the database is damaged, or is not an SQLite file",
                kind="database",
                subject="VFMALIGN_DATABASE__URL",
                remedy="stop the service and restore the file from a backup, or move it away to begin anew",
                reason="DATABASE_DAMAGED",
            ) from error
        if isinstance(error, OperationalError) or error.connection_invalidated:
            raise Unavailable(
                "the database cannot be reached",
                subject="VFMALIGN_DATABASE__URL",
                remedy="check that it is running and that the user may write to it",
            ) from error
        raise
