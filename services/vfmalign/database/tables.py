"""Columns that the tables of all services share: tenants, times, lifecycles and the leader's lease.

Times are timezone-aware UTC in SQLite and in PostgreSQL.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, declared_attr, mapped_column


def now() -> datetime:
    """Returns the current time in UTC."""
    return datetime.now(UTC)


class UtcDateTime(sa.TypeDecorator[datetime]):
    """A point in time. Written values must have a timezone. Read values are in UTC."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Rejects naive times."""
        if value is not None and value.tzinfo is None:
            raise ValueError("expected a time with a timezone, got a naive one")
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Adds the timezone UTC. Stored times are always UTC, but SQLite does not store timezones."""
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
    """A row that belongs to a tenant. Sessions of other tenants can neither read nor write the row."""

    __abstract__ = True

    tenant: Mapped[str] = mapped_column(sa.String(40), primary_key=True, sort_order=-1)


class OwnedRow(TenantRow):
    """Columns of objects that clients create and list.

    Attributes:
        request: request as the client sent it. The digest of the request makes creation idempotent.
        created_by: key of the identity that created the object. Empty if the service created it.
    """

    __abstract__ = True

    id: Mapped[str] = mapped_column(sa.String(128), primary_key=True)
    request_digest: Mapped[str] = mapped_column(sa.String(64))
    request: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(sa.String(16))
    created_at: Mapped[datetime]
    created_by: Mapped[str] = mapped_column(sa.String(1024), default="")

    @declared_attr.directive
    @classmethod
    def __table_args__(cls) -> tuple[sa.Index, ...]:
        """Indexes for lists by time and by state."""
        name = cls.__tablename__
        created = sa.Index(f"ix_{name}_created", "tenant", "created_at", "id")
        return created, sa.Index(f"ix_{name}_state", "tenant", "state")

    @classmethod
    def has_model(cls, model_id: str) -> sa.ColumnElement[bool]:
        """Returns the condition that a row uses a model."""
        condition: sa.ColumnElement[bool] = cls.request["model_id"].as_string() == model_id
        return condition


class LifecycleRow(OwnedRow):
    """Columns of operations that are created once, run and end: jobs, checks and experiments.

    Attributes:
        progress: `Progress` as JSON.
        failure: `Failure` as JSON, if the state is `failed`.
        retries, retried_at: number of times that clients queued the operation again, and time of the last retry.
        erased_at: when the erasure of a patient removed what could describe patients; None if none did.
        on_behalf_of: key of the identity that created the check or experiment for which the service created the
            operation. None or empty if unknown, as in rows of earlier versions.
    """

    __abstract__ = True

    progress: Mapped[dict[str, Any]] = mapped_column(sa.JSON, default=dict)
    failure: Mapped[dict[str, Any] | None]
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    retries: Mapped[int] = mapped_column(default=0)
    retried_at: Mapped[datetime | None]
    erased_at: Mapped[datetime | None]
    on_behalf_of: Mapped[str | None] = mapped_column(sa.String(1024))


def belongs_to(table: str, column: str) -> sa.ForeignKeyConstraint:
    """Returns a foreign key to another table. Deleting a row of that table also deletes the rows that refer to it."""
    return sa.ForeignKeyConstraint(["tenant", column], [f"{table}.tenant", f"{table}.id"], ondelete="CASCADE")


class LeaseRow(Base):
    """A lease. Only one process can have the lease at a time. `lease.Lease` defines its rules.

    Attributes:
        holder: process that has the lease, or had it last.
        epoch: number of times that the lease was acquired.
        expires_at: by the database's clock.
        scope: random id of this database. Locks that holders take outside the database contain this id.
    """

    __tablename__ = "leases"

    name: Mapped[str] = mapped_column(sa.String(64), primary_key=True)
    holder: Mapped[str] = mapped_column(sa.String(128))
    epoch: Mapped[int] = mapped_column(sa.BigInteger)
    expires_at: Mapped[datetime]
    scope: Mapped[str] = mapped_column(sa.String(32))
