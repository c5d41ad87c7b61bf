"""Lease of the leader. Several processes of a service can share a database, but only one of them leads at a time.

Each service has one row for its lease: holder, epoch, and expiry by the database's clock. A process acquires the lease
when the lease is free or expired. Each acquisition increments the epoch. The process renews the lease while it leads. A
process that was paused does not notice that its lease has expired. Every write is therefore checked:

- Every transaction of the leader that may write runs on `database.guarded_by(term.verify)`. `verify` locks the row and
  compares holder and epoch. After a takeover by another process, transactions of the earlier leader fail. A takeover
  waits until a running transaction ends.
- Writes to the object store cannot be part of a transaction. These writes run on
  `store.guarded_by(term.check_deadline)`, which checks on this process's clock that the last successful renewal is
  recent. If the process pauses right after this check, a late write is possible. A late write is harmless, because
  artifacts are deterministic and the database stores their digests.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.orm import Session

from vfmalign.core.domain.errors import Conflict, LeaseLost
from vfmalign.database.database import Database
from vfmalign.database.settings import LONGEST_TTL_S
from vfmalign.database.tables import LeaseRow, UtcDateTime

_MAX_HOST = 100


class Lease:
    """Acquires the lease for this process.

    Args:
        database: a migrated database.
        ttl_s: seconds after which a lease expires if it is not renewed.
    """

    def __init__(self, database: Database, ttl_s: float) -> None:
        self._database = database
        self.ttl_s = ttl_s
        self.holder = f"{socket.gethostname()[:_MAX_HOST]}-{os.getpid()}-{secrets.token_hex(4)}"

    def try_acquire(self) -> Term | None:
        """Acquires the lease if it is free or has expired.

        Raises:
            Unavailable: the database cannot be reached.
        """
        requested = _clock_s()
        with self._database.snapshot() as session:  # without a lock: waiting must not delay the leader
            if not self._is_free(session, session.get_one(LeaseRow, self._database.schema.lease)):
                return None
        with self._database.session() as session:
            row = session.get_one(LeaseRow, self._database.schema.lease, with_for_update=True)
            if not self._is_free(session, row):
                return None
            row.holder, row.epoch = self.holder, row.epoch + 1
            row.expires_at = _database_time(session) + timedelta(seconds=self.ttl_s)
            return Term(self._database, self.holder, row.epoch, self.ttl_s, requested)

    def get_holder(self) -> str:
        """Returns the current or last holder of the lease."""
        with self._database.snapshot() as session:
            return session.get_one(LeaseRow, self._database.schema.lease).holder

    def _is_free(self, session: Session, row: LeaseRow) -> bool:
        # An earlier term of this process has ended: it cannot be continued, and nobody else waits for its expiry.
        return row.holder == self.holder or _has_expired(session, row)


class Term:
    """A period in which one process holds the lease. Thread-safe.

    Args:
        database: holds the lease.
        holder, epoch: identify the term.
        ttl_s: seconds after which the lease expires if it is not renewed.
        requested: value of `_clock_s` when the lease was requested.
    """

    def __init__(self, database: Database, holder: str, epoch: int, ttl_s: float, requested: float) -> None:
        self._database = database
        self._holder = holder
        self.epoch = epoch
        self._ttl_s = ttl_s
        self._deadline = requested + ttl_s

    @property
    def remaining_s(self) -> float:
        """Seconds until this process must assume that the lease has expired. Negative after that time."""
        return self._deadline - _clock_s()

    def renew(self) -> None:
        """Extends the lease. Also renews an expired lease if no other process has taken over the lease.

        Raises:
            LeaseLost: another process holds it.
            Unavailable: the database cannot be reached.
        """
        requested = _clock_s()
        with self._database.session() as session:
            row = session.get_one(LeaseRow, self._database.schema.lease, with_for_update=True)
            self._require(row.holder, row.epoch)
            row.expires_at = _database_time(session) + timedelta(seconds=self._ttl_s)
        # Measured from before the request, so that this deadline never lies after the expiry in the database.
        self._deadline = requested + self._ttl_s

    def release(self) -> None:
        """Ends the term, so that another process can take over at once.

        Raises:
            LeaseLost: another process holds the lease.
            Unavailable: the database cannot be reached. The lease expires by itself.
        """
        self._deadline = float("-inf")
        with self._database.session() as session:
            row = session.get_one(LeaseRow, self._database.schema.lease, with_for_update=True)
            self._require(row.holder, row.epoch)
            row.holder, row.expires_at = "", _database_time(session)

    def verify(self, session: Session) -> None:
        """Checks that this process still has the lease. Takeovers wait until the transaction ends.

        Raises:
            LeaseLost: another process holds the lease.
        """
        # FOR SHARE makes a takeover wait for this transaction. SQLite has no row locks; BEGIN IMMEDIATE admits one
        # transaction at a time.
        query = (
            sa.select(LeaseRow.holder, LeaseRow.epoch)
            .where(LeaseRow.name == self._database.schema.lease)
            .with_for_update(read=True)
        )
        self._require(*session.execute(query).one())

    def check_deadline(self) -> None:
        """Checks that the lease has not expired, without a query to the database.

        Raises:
            LeaseLost: it may have expired.
        """
        if self.remaining_s <= 0:
            raise self._lost("its lease has expired")

    def _require(self, holder: str, epoch: int) -> None:
        if (holder, epoch) != (self._holder, self.epoch):
            raise self._lost("another process has taken over")

    def _lost(self, cause: str) -> LeaseLost:
        return LeaseLost(
            cause, subject=f"term {self.epoch} of {self._holder}", remedy="nothing to do: it stands by and tries again"
        )


def migrate_unused(database: Database) -> None:
    """Migrates the schema, unless an orchestrator of an earlier version may still use the schema.

    Raises:
        Conflict: an orchestrator of an earlier version leads, or a later version has migrated the database.
        Unavailable: the database cannot be reached.
    """
    if database.is_outdated():
        with database.snapshot() as session:
            row = session.get_one(LeaseRow, database.schema.lease)
            if not _has_expired(session, row):
                raise Conflict(
                    f"the schema changes with this version, and the orchestrator {row.holder} of an earlier one leads",
                    subject="VFMALIGN_DATABASE__URL",
                    remedy="stop every orchestrator of the earlier version (on a cluster: kubectl -n vfmalign scale "
                    f"deployment/vfmalign-{database.schema.service} --replicas=0), then start this one; the lease of "
                    "one that was killed expires after VFMALIGN_LEASE__TTL_S",
                )
    database.migrate()


def get_scope(database: Database) -> str:
    """Returns the random id of a database. Locks that orchestrators take outside the database contain this id."""
    with database.snapshot() as session:
        return session.get_one(LeaseRow, database.schema.lease).scope


def _has_expired(session: Session, row: LeaseRow) -> bool:
    time = _database_time(session)
    # No lease lasts that long: the database's clock was set back, and might need hours or years to reach this expiry.
    return row.expires_at <= time or row.expires_at > time + timedelta(seconds=2 * LONGEST_TTL_S)


def _database_time(session: Session) -> datetime:
    """Returns the database's current time; `now()` of PostgreSQL would be the start of the transaction."""
    if session.get_bind().dialect.name == "postgresql":
        clock: sa.Function[datetime] = sa.func.clock_timestamp(type_=UtcDateTime)
    else:
        clock = sa.func.strftime("%Y-%m-%d %H:%M:%f000", "now", type_=UtcDateTime)
    return session.execute(sa.select(clock)).scalar_one()


def _clock_s() -> float:
    """Returns a clock in seconds that is never set; on Linux it also advances while the machine is suspended."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()
