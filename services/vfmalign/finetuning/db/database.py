"""The orchestrator's tables, and the connection to SQLite or PostgreSQL that holds them.

Knows the schema and how to bring a database up to it. Knows nothing of what states mean: `jobs`, `checks` and
`experiments.book` do.
Times are timezone-aware UTC on both databases.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import alembic.command
import alembic.config
import alembic.util
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import Connection, Dialect
from sqlalchemy.exc import ArgumentError, OperationalError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker
from sqlalchemy.pool import ConnectionPoolEntry

from vfmalign.core.domain.errors import Conflict, InvalidInput, Unavailable

_BUSY_TIMEOUT_S = 30
_MIGRATION_LOCK = 0x76666D  # any constant; keeps two starting processes from migrating at once


class UtcDateTime(sa.TypeDecorator[datetime]):
    """A point in time: aware on the way in, UTC on the way out, whatever the database keeps."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuses naive times."""
        if value is not None and value.tzinfo is None:
            raise ValueError("a time without a timezone")
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """SQLite forgets the zone of what is always UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    """Base of the tables."""

    type_annotation_map = {  # noqa: RUF012 - read once by SQLAlchemy
        datetime: UtcDateTime,
        dict[str, Any]: sa.JSON(none_as_null=True),
    }


class JobRow(Base):
    """One job; the fields are those of `jobs.Job`."""

    __tablename__ = "jobs"
    __table_args__ = (
        sa.Index("ix_jobs_created", "created_at", "id"),
        sa.Index("ix_jobs_state", "state"),
        sa.Index("ix_jobs_baseline", "baseline"),
    )

    id: Mapped[str] = mapped_column(sa.String(128), primary_key=True)
    check_id: Mapped[str] = mapped_column(sa.String(128), default="")
    request_digest: Mapped[str] = mapped_column(sa.String(64))
    request: Mapped[dict[str, Any]]
    spec: Mapped[dict[str, Any]]
    baseline: Mapped[str] = mapped_column(sa.String(64), default="")
    state: Mapped[str] = mapped_column(sa.String(16))
    message: Mapped[str] = mapped_column(sa.Text, default="")
    reason: Mapped[str] = mapped_column(sa.String(64), default="")
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    attempts: Mapped[int] = mapped_column(default=0)
    failures: Mapped[int] = mapped_column(default=0)
    not_before: Mapped[datetime | None]
    handle: Mapped[dict[str, Any] | None]
    curve: Mapped[list[Any]] = mapped_column(sa.JSON, default=list)
    exit_code: Mapped[int | None]
    result: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class AttemptRow(Base):
    """One process of one job: the proof of what ran how often."""

    __tablename__ = "job_attempts"

    job_id: Mapped[str] = mapped_column(sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    exit_code: Mapped[int | None]
    outcome: Mapped[str] = mapped_column(sa.String(16))


class CheckRow(Base):
    """One alignment check; the fields are those of `checks.Check`."""

    __tablename__ = "checks"
    __table_args__ = (sa.Index("ix_checks_created", "created_at", "id"), sa.Index("ix_checks_state", "state"))

    id: Mapped[str] = mapped_column(sa.String(128), primary_key=True)
    request_digest: Mapped[str] = mapped_column(sa.String(64))
    request: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(sa.String(16))
    message: Mapped[str] = mapped_column(sa.Text, default="")
    reason: Mapped[str] = mapped_column(sa.String(64), default="")
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    progress: Mapped[dict[str, Any] | None]
    report: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class ExperimentRow(Base):
    """One experiment; the fields are those of `experiments.book.Experiment`. Its cells are rows of `checks`."""

    __tablename__ = "experiments"
    __table_args__ = (sa.Index("ix_experiments_created", "created_at", "id"), sa.Index("ix_experiments_state", "state"))

    id: Mapped[str] = mapped_column(sa.String(128), primary_key=True)
    request_digest: Mapped[str] = mapped_column(sa.String(64))
    request: Mapped[dict[str, Any]]
    fixed: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(sa.String(16))
    message: Mapped[str] = mapped_column(sa.Text, default="")
    reason: Mapped[str] = mapped_column(sa.String(64), default="")
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    report: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class StageRow(Base):
    """One run of one stage of a check: the proof that no finished stage ran twice."""

    __tablename__ = "stage_runs"

    check_id: Mapped[str] = mapped_column(sa.ForeignKey("checks.id", ondelete="CASCADE"), primary_key=True)
    stage: Mapped[str] = mapped_column(sa.String(64), primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    seconds: Mapped[float | None] = mapped_column(sa.Double)
    outcome: Mapped[str] = mapped_column(sa.String(16))
    message: Mapped[str] = mapped_column(sa.Text, default="")


class Database:
    """A migrated database.

    Args:
        url: `sqlite:///<file>` or `postgresql://user:password@host/name`.

    Raises:
        InvalidInput: the URL is of no supported kind.
        Unavailable: nothing answers there.
    """

    def __init__(self, url: str) -> None:
        self._engine = _create_engine(url)
        self._sessions = sessionmaker(self._engine, expire_on_commit=False)

    @property
    def engine(self) -> sa.Engine:
        """For tests and tools that look at the tables."""
        return self._engine

    @contextmanager
    def session(self) -> Iterator[Session]:
        """One transaction: committed at the end, rolled back on an error.

        Raises:
            Unavailable: the database does not answer.
        """
        try:
            with self._sessions.begin() as session:
                yield session
        except OperationalError as error:
            raise _unreachable() from error

    def migrate(self) -> None:
        """Brings the schema to the newest version; safe to run at every start.

        Raises:
            Conflict: a later version of the program has migrated it.
            Unavailable: the database does not answer.
        """
        config = alembic.config.Config()
        config.set_main_option("script_location", "vfmalign.finetuning.db:migrations")
        try:
            with self._engine.begin() as connection:
                if connection.dialect.name == "postgresql":
                    connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
                config.attributes["connection"] = connection
                alembic.command.upgrade(config, "head")
        except OperationalError as error:
            raise _unreachable() from error
        except alembic.util.CommandError as error:  # a revision that this version does not know
            raise Conflict(
                "the database was migrated by a later version",
                subject="VFMALIGN_DATABASE__URL",
                remedy="start that version, or restore the backup from before the upgrade",
            ) from error

    def close(self) -> None:
        """Closes every connection."""
        self._engine.dispose()


def now() -> datetime:
    """The present, in UTC."""
    return datetime.now(UTC)


def _unreachable() -> Unavailable:
    # The driver's own text may hold the URL with its password: it stays in the chained exception, out of the message.
    return Unavailable(
        "the database does not answer",
        subject="VFMALIGN_DATABASE__URL",
        remedy="check that it runs and that the user may write to it",
    )


def _create_engine(url: str) -> sa.Engine:
    try:
        parsed = sa.make_url(url)
    except ArgumentError as error:
        raise _bad_url() from error
    if parsed.drivername == "sqlite":
        engine = sa.create_engine(parsed, connect_args={"timeout": _BUSY_TIMEOUT_S})
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    if parsed.drivername in {"postgresql", "postgresql+psycopg", "postgres"}:
        return sa.create_engine(
            parsed.set(drivername="postgresql+psycopg"), pool_pre_ping=True, connect_args={"connect_timeout": 10}
        )
    raise _bad_url()


def _bad_url() -> InvalidInput:
    return InvalidInput(
        "not a database that this service knows",
        field="VFMALIGN_DATABASE__URL",
        remedy="write sqlite:///<file> or postgresql://user:password@host/name",
    )


def _prepare_sqlite(connection: Any, record: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # we begin transactions ourselves, see _begin_sqlite
    for pragma in ("journal_mode=WAL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    # Python's driver would begin at the first write only, and two readers that turn writers deadlock.
    connection.exec_driver_sql("BEGIN IMMEDIATE")
