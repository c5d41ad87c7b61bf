"""Repository of monitors: requests, states, epochs and alarms. `evidence` records their observations."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from vfmalign.client.messages.monitors import FeatureOrigin, MonitorAlarm, MonitorEpoch, MonitorReference, MonitorSpec
from vfmalign.core.domain.errors import Conflict, Exhausted, NotFound, PreconditionFailed
from vfmalign.core.rpc.access.identity import current_identity
from vfmalign.database.database import Database
from vfmalign.database.pagination import Page, PageRequest, read_page
from vfmalign.database.tables import now
from vfmalign.monitoring.sequential import EpochStart
from vfmalign.monitoring.service.references import LoadedReference, list_changed_fields
from vfmalign.monitoring.service.snapshots import Snapshot
from vfmalign.monitoring.tables import EpochRow, InputRow, MonitorRow, ObservationRow, WindowRow

STATES = ACTIVE, PAUSED = "active", "paused"
DELETING = "deleting"
"""State of a monitor while its rows are deleted in steps. The monitor is hidden from all other calls."""
_DELETED_ROWS = 1000
"""Maximum number of rows of a table deleted per transaction. In SQLite, a long transaction blocks other calls."""
UPDATABLE = ("max_silence_hours", "title")
"""Fields of `MonitorSpec` that do not affect the evidence."""
MAX_EARLIER_EPOCHS = 100
"""Maximum number of earlier epochs that a monitor shows."""
_SAME = (
    *("id", "uid", "state", "model_id", "layers", "created_at", "created_by"),
    *("sequence", "status", "counts", "last_observed_at", "last_acquired_at", "lag_s", "resumed_at"),
)
"""Common attributes of `StoredMonitor` and `MonitorRow`."""
_IS_SHOWN = MonitorRow.state != DELETING
_SELECT = sa.select(MonitorRow).where(MonitorRow.id == sa.bindparam("monitor_id"), _IS_SHOWN)
_SELECT_LOCKED = _SELECT.with_for_update()


@dataclass(frozen=True)
class StoredMonitor:
    """A monitor as stored in the database; see `tables.MonitorRow`.

    Attributes:
        epochs: epochs, newest first. Lists of monitors include only the current epoch.
        shifts, channels: results of the last window. Both are empty in lists of monitors.
    """

    id: str
    uid: str
    state: str
    spec: MonitorSpec
    origin: FeatureOrigin
    model_id: str
    layers: dict[str, int]
    sequence: int
    status: dict[str, Any]
    counts: dict[str, int]
    last_observed_at: datetime | None
    last_acquired_at: datetime | None
    lag_s: float | None
    resumed_at: datetime | None
    created_at: datetime
    created_by: str
    epochs: tuple[MonitorEpoch, ...]
    shifts: tuple[dict[str, Any], ...] = ()
    channels: tuple[dict[str, Any], ...] = ()

    @property
    def epoch(self) -> MonitorEpoch:
        """The current epoch."""
        return self.epochs[0]


@dataclass(frozen=True)
class MonitorPins:
    """Fixed properties of a monitor, against which observations are checked."""

    uid: str
    layers: dict[str, int]
    stratum: str


@dataclass(frozen=True)
class NewMonitor:
    """Input of `create`: the prepared reference, the first snapshot of the state, and the first status of the state."""

    uid: str
    spec: MonitorSpec
    reference: LoadedReference
    snapshot: Snapshot
    status: dict[str, Any]


class MonitorRepository:
    """All monitors of a tenant. Every method is one transaction.

    Args:
        database: database of the tables, restricted to one tenant.
        quota: maximum number of monitors of the tenant.
    """

    def __init__(self, database: Database, quota: int) -> None:
        self.database, self._quota = database, quota

    def find(self, monitor_id: str, request: MonitorSpec) -> StoredMonitor | None:
        """Returns the monitor with this id if it has the same request. Returns None if the id is free.

        Raises:
            Conflict: the id is taken by a monitor with a different request.
            Exhausted: the id is free, and the tenant has reached its quota of monitors.
            PreconditionFailed: a monitor with this id is being deleted.
        """
        with self.database.snapshot() as session:
            row = session.get(MonitorRow, (self.database.tenant, monitor_id))
            if row is None:
                self._check_quota(session, monitor_id)
                return None
            return self._same(session, row, request)

    def create(self, monitor_id: str, request: MonitorSpec, new: NewMonitor) -> StoredMonitor:
        """Adds a monitor. If a monitor with the same id and request exists, returns this monitor.

        Raises:
            Conflict: the id is taken by a monitor with a different request.
            Exhausted: the tenant has reached its quota of monitors.
        """
        identity = current_identity.get()
        row = MonitorRow(
            id=monitor_id,
            request=request.model_dump(mode="json"),
            request_digest=request.digest(),
            state=ACTIVE,
            created_at=now(),
            created_by=identity.key if identity else "",
            uid=new.uid,
            spec=new.spec.model_dump(mode="json"),
            origin=new.reference.origin.model_dump(mode="json"),
            model_id=new.reference.model_id,
            layers={name: rows_GC.shape[1] for name, rows_GC in new.reference.layers.items()},
            epoch=1,
            sequence=0,
            snapshot=new.snapshot.model_dump(mode="json"),
            status=new.status,
            counts={},
        )
        try:
            with self.database.session() as session:
                self._check_quota(session, monitor_id)
                session.add(row)
                session.flush()
                session.add(make_epoch(monitor_id, 1, EpochStart.FIXED, new.reference, new.status))
                session.flush()
                return self._to_item(session, row)
        except IntegrityError:  # another call has created it meanwhile
            return self.find(monitor_id, request) or self.get(monitor_id)

    def get(self, monitor_id: str, uid: str = "") -> StoredMonitor:
        """Returns one monitor; see `get_row`.

        Raises:
            NotFound: the id is unknown, or now belongs to a later monitor.
        """
        with self.database.snapshot() as session:
            return self._to_item(session, get_row(session, monitor_id, uid))

    def get_pins(self, monitor_id: str) -> MonitorPins:
        """Returns the properties of a monitor against which its observations are checked.

        Raises:
            NotFound: the id is unknown.
        """
        with self.database.snapshot() as session:
            row = get_row(session, monitor_id)
            return MonitorPins(row.uid, row.layers, row.spec["stratum"])

    def list(self, request: PageRequest) -> Page[StoredMonitor]:
        """Returns one page of monitors, newest first, without windows and earlier epochs."""
        request = replace(request, states=request.states or STATES)
        with self.database.snapshot() as session:
            return read_page(session, MonitorRow, request, lambda row: self._to_item(session, row, whole=False))

    def list_all(self) -> tuple[StoredMonitor, ...]:
        """Returns all monitors of the tenant. Earlier epochs are not included."""
        with self.database.snapshot() as session:
            rows = session.scalars(sa.select(MonitorRow).where(_IS_SHOWN).order_by(MonitorRow.id))
            return tuple(self._to_item(session, row, whole=False) for row in rows)

    def set_state(self, monitor_id: str, uid: str, state: str) -> StoredMonitor:
        """Pauses or resumes a monitor if it is not yet in the requested state.

        Raises:
            NotFound: the monitor was deleted.
        """
        with self.database.session() as session:
            row = get_row(session, monitor_id, uid, lock=True)
            if row.state == PAUSED and state == ACTIVE:
                row.resumed_at = now()
            row.state = state
            return self._to_item(session, row)

    def update(self, monitor_id: str, uid: str, changes: Mapping[str, Any]) -> StoredMonitor:
        """Changes fields of the spec that are in `UPDATABLE`.

        Raises:
            NotFound: the monitor was deleted.
        """
        with self.database.session() as session:
            row = get_row(session, monitor_id, uid, lock=True)
            row.spec = {**row.spec, **changes}
            return self._to_item(session, row)

    def acknowledge(self, monitor_id: str, epoch: int, note: str) -> StoredMonitor:
        """Records that a person has acknowledged the alarm of an epoch.

        Raises:
            NotFound: the id is unknown.
            PreconditionFailed: the given epoch is not the current epoch, or it has no alarm.
        """
        with self.database.session() as session:
            row = get_row(session, monitor_id, lock=True)
            check_epoch(row, epoch)
            current = get_epoch(session, monitor_id, epoch)
            if current.alarm is None:
                raise PreconditionFailed(
                    "there is no alarm in this epoch",
                    subject=monitor_id,
                    remedy="do nothing: only an alarm needs an acknowledgement",
                    reason="NO_ALARM",
                )
            if current.alarm.get("acknowledge_time") is None:
                identity = current_identity.get()
                current.alarm = current.alarm | {
                    "acknowledge_time": now().isoformat(),
                    "acknowledged_by": identity.key if identity else "",
                    "note": note,
                }
            return self._to_item(session, row)

    def delete(self, monitor_id: str, uid: str) -> bool:
        """Hides a monitor permanently and deletes some of its rows. Returns True if no rows are left.

        Repeat the call until it returns True: each call deletes only some of the rows. Until the call returns True, the
        id cannot be used for a new monitor.
        """
        with self.database.session() as session:
            query = sa.select(MonitorRow).where(MonitorRow.id == monitor_id, MonitorRow.uid == uid)
            row = session.scalar(query.with_for_update())  # another deletion of it waits
            if row is None:
                return True
            row.state = DELETING
            for part in (InputRow, ObservationRow):
                own = sa.select(part.sequence).where(part.monitor_id == monitor_id).order_by(part.sequence)
                last = session.scalar(own.offset(_DELETED_ROWS).limit(1))
                if last is not None:  # a range, because PostgreSQL plans a list of many rows badly
                    first = sa.delete(part).where(part.monitor_id == monitor_id, part.sequence < last)
                    session.execute(first, execution_options={"synchronize_session": False})
                    return False
            session.delete(row)  # also deletes the rows that belong to it
            return True

    def list_deleted(self) -> tuple[tuple[str, str], ...]:
        """Returns the id and the `uid` of each hidden monitor that still has rows; see `delete`."""
        with self.database.snapshot() as session:
            query = sa.select(MonitorRow.id, MonitorRow.uid).where(~_IS_SHOWN).order_by(MonitorRow.id)
            return tuple((monitor_id, uid) for monitor_id, uid in session.execute(query))

    def _check_quota(self, session: Session, monitor_id: str) -> None:
        """Checks that the tenant may have one more monitor. Concurrent calls do not count each other."""
        count = session.scalar(sa.select(sa.func.count()).select_from(MonitorRow).where(_IS_SHOWN)) or 0
        if count >= self._quota:
            raise Exhausted(
                f"the tenant has {count} monitors, and the quota is {self._quota}",
                subject=monitor_id,
                remedy="delete one, or ask an operator to raise VFMALIGN_QUOTA__MONITORS",
            )

    def _same(self, session: Session, row: MonitorRow, request: MonitorSpec) -> StoredMonitor:
        if row.state == DELETING:
            raise PreconditionFailed(
                "a monitor with this id is being deleted",
                subject=row.id,
                remedy="create it again in a minute, or choose another monitor id",
                reason="BEING_DELETED",
            )
        if row.request_digest != request.digest():
            created = row.spec | {name: row.request[name] for name in UPDATABLE}
            raise Conflict(
                f"the monitor exists with a different request: it differs in "
                f"{', '.join(list_changed_fields(created, request))}",
                subject=row.id,
                remedy="choose another monitor id, or delete this one",
            )
        return self._to_item(session, row)

    def _to_item(self, session: Session, row: MonitorRow, *, whole: bool = True) -> StoredMonitor:
        session.flush()
        epochs = sa.select(EpochRow).where(EpochRow.monitor_id == row.id).order_by(EpochRow.number.desc())
        last = session.scalar(
            sa.select(WindowRow)
            .where(WindowRow.monitor_id == row.id, WindowRow.epoch == row.epoch)
            .order_by(WindowRow.last_row.desc())
            .limit(1)
        )
        return StoredMonitor(
            **{name: getattr(row, name) for name in _SAME},
            spec=MonitorSpec.model_validate(row.spec),
            origin=FeatureOrigin.model_validate(row.origin),
            epochs=_to_epochs(session.scalars(epochs.limit(1 + MAX_EARLIER_EPOCHS if whole else 1)).all(), row),
            shifts=() if last is None else tuple(last.shifts),
            channels=() if last is None else tuple(last.channels),
        )


def get_row(session: Session, monitor_id: str, uid: str = "", *, lock: bool = False) -> MonitorRow:
    """Returns the row of a monitor.

    If `uid` is set, a later monitor with the same id does not match. If `uid` is empty, any monitor with this id
    matches.

    Raises:
        NotFound: the id is unknown, or belongs to a later monitor or to a monitor that is being deleted.
    """
    row = session.scalar(_SELECT_LOCKED if lock else _SELECT, {"monitor_id": monitor_id})
    if row is None or uid not in {"", row.uid}:
        raise make_unknown(monitor_id)
    return row


def make_unknown(monitor_id: str) -> NotFound:
    """Returns the error that a monitor id is unknown."""
    return NotFound(
        "no such monitor",
        subject=monitor_id[:128],
        remedy="run `vfmalign monitors list`, or call ListMonitors, to see the known ids",
    )


def get_epoch(session: Session, monitor_id: str, number: int) -> EpochRow:
    """Returns the row of an existing epoch."""
    return session.scalars(
        sa.select(EpochRow).where(EpochRow.monitor_id == monitor_id, EpochRow.number == number)
    ).one()


def check_epoch(row: MonitorRow, epoch: int) -> None:
    """Checks that an epoch is the current epoch.

    Raises:
        PreconditionFailed: another epoch is the current epoch.
    """
    if row.epoch != epoch:
        raise PreconditionFailed(
            f"the current epoch is {row.epoch}, and the call names {epoch}",
            subject=row.id,
            remedy="get the monitor, and repeat the call for its current epoch",
            reason="EPOCH_CHANGED",
        )


def make_epoch(
    monitor_id: str, number: int, start: EpochStart, reference: LoadedReference, status: dict[str, Any]
) -> EpochRow:
    """Returns the row of a new epoch."""
    return EpochRow(
        monitor_id=monitor_id,
        number=number,
        start=start.value,
        has_guarantee=status["has_guarantee"],
        feature_set_id=reference.pinned.feature_set_id,
        manifest_sha256=reference.pinned.manifest_sha256,
        started_at=now(),
        rows=0,
        alarm=None,
    )


def make_uid() -> str:
    """Returns a random `uid` for a new monitor."""
    return uuid.uuid4().hex


def _to_epochs(rows: Sequence[EpochRow], monitor: MonitorRow) -> tuple[MonitorEpoch, ...]:
    return tuple(
        MonitorEpoch(
            number=row.number,
            start=EpochStart(row.start).value,
            has_guarantee=row.has_guarantee,
            reference=MonitorReference(feature_set_id=row.feature_set_id, manifest_sha256=row.manifest_sha256),
            start_time=row.started_at,
            rows=monitor.status["rows"] if row.number == monitor.epoch else row.rows,
            alarm=None if row.alarm is None else MonitorAlarm.model_validate(row.alarm),
        )
        for row in rows
    )
