"""Snapshots of monitors' states in object storage, `monitors/<id>/<uid>/state/e<erasures>-…-<random>.npz`.

Snapshots are stored in the background. Calls that record observations therefore do not wait for the store.
"""

from __future__ import annotations

import threading
import time
import uuid

import sqlalchemy as sa

from vfmalign.core.domain.errors import DataLoss, InvalidInput, VfmalignError
from vfmalign.core.domain.stored_objects import StoredFile
from vfmalign.core.runtime import logs
from vfmalign.core.runtime.threads import Threads
from vfmalign.core.runtime.work_context import UNLIMITED, work_within
from vfmalign.core.storage.keys import monitor_key
from vfmalign.core.storage.lost_objects import lost_as
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.database.database import Database
from vfmalign.monitoring import metrics
from vfmalign.monitoring.sequential import Monitor, OutdatedState, from_bytes, to_bytes
from vfmalign.monitoring.service.states import Key, States
from vfmalign.monitoring.tables import MonitorRow

RESTORE = (
    "restore the bucket and the database from backups of the same time, or delete the monitor and create it again; "
    "its evidence then starts over"
)
SNAPSHOTS = Threads(1, "snapshots")
RETRY_S = 30.0
"""Pause after a failure: a snapshot of a large state blocks the monitor for about a second."""
_log = logs.get(__name__)


class Snapshot(StoredFile):
    """A stored state.

    Attributes:
        sequence: number of the last observation that the state includes.
    """

    sequence: int


def write_snapshot(
    store: ObjectStore, owner: tuple[str, str], state: bytes, epoch: int, sequence: int, *, erasures: int = 0
) -> Snapshot:
    """Stores a state of the monitor with this id and `uid`.

    Every call uses a new key, because two processes may store the same state. If no monitor uses an object, the process
    that wrote the object deletes it.
    """
    key = monitor_key(*owner, f"{_name_erasures(erasures)}-{epoch}-{sequence}-{uuid.uuid4().hex[:16]}.npz")
    file = StoredFile.of(key, state)
    store.put(key, state)
    return Snapshot(key=key, sha256=file.sha256, size_bytes=file.size_bytes, sequence=sequence)


def read_snapshot(store: ObjectStore, monitor_id: str, snapshot: Snapshot) -> Monitor:
    """Reads a state.

    Raises:
        DataLoss: the snapshot is missing or was changed.
        OutdatedState: an earlier version stored the snapshot.
        Unavailable: the store does not answer.
    """
    try:
        with lost_as("monitor", monitor_id, RESTORE):
            data = store.get(snapshot.key, sha256=snapshot.sha256, max_bytes=snapshot.size_bytes)
        return from_bytes(data)
    except OutdatedState:
        raise
    except InvalidInput as error:  # larger than the stored object, or not a state
        raise DataLoss(error.message, kind="monitor", owner=monitor_id, subject=monitor_id, remedy=RESTORE) from error


def delete_unused(store: ObjectStore, snapshot: Snapshot | None) -> None:
    """Deletes a snapshot that no monitor uses. If the store does not answer, the leader deletes the snapshot later."""
    if snapshot is None:
        return
    try:
        store.delete(snapshot.key)
    except VfmalignError as error:
        _log.warning("objects_not_deleted", error=error)


def delete_erased(store: ObjectStore, monitor_id: str, uid: str, erasures: int) -> None:
    """Deletes the states of a monitor that include fewer erasures than the given number."""
    if not erasures:
        return
    first = monitor_key(monitor_id, uid, _name_erasures(erasures))
    for key in store.list(monitor_key(monitor_id, uid, "")):
        if key < first:
            store.delete(key)


def _name_erasures(erasures: int) -> str:
    """Returns the beginning of names. Names of more erasures sort later, and those of earlier versions first."""
    return f"state/e{erasures:06d}"


def count_erasures(key: str) -> int:
    """Returns the number of erasures that had been made in the monitor when a state was stored under this key.

    A state is no longer valid if its number differs from that of the last snapshot.
    """
    name = key.rpartition("/")[2]
    return int(name[1:7]) if name.startswith("e") else 0


def delete_objects(store: ObjectStore, monitor_id: str, uid: str) -> None:
    """Deletes all objects of a deleted monitor. If the store does not answer, the leader deletes the objects later."""
    try:
        for key in store.list(monitor_key(monitor_id, uid, "")):
            store.delete(key)
    except VfmalignError as error:
        _log.warning("objects_not_deleted", monitor=monitor_id, error=error)


class SnapshotWriter:
    """Stores the states of the monitors of a tenant.

    Args:
        database: database of its monitors.
        store: object store of the monitors' snapshots.
        states: cached states of all tenants.
        rows: number of observations after which a state is stored.
    """

    def __init__(self, database: Database, store: ObjectStore, states: States, rows: int) -> None:
        self._database, self._store, self._states = database, store, states
        self._rows = rows
        self._guard = threading.Lock()
        self._storing: set[Key] = set()
        self._not_before: dict[Key, float] = {}

    def store_if_due(self, key: Key, rows: int) -> None:
        """Stores a state in the background if at least `rows` observations were recorded since the last snapshot."""
        if rows < self._rows:
            return
        with self._guard:
            if key in self._storing or time.monotonic() < self._not_before.get(key, 0.0):
                return
            self._storing.add(key)
        SNAPSHOTS.submit(self._store_state, key)

    def _store_state(self, key: Key) -> None:
        failed = False
        try:
            with work_within(UNLIMITED):  # the call that recorded the observations does not wait for this
                self._replace_snapshot(key)
        except VfmalignError as error:  # a restart replays the log
            failed = True
            metrics.snapshot_failures.inc()
            _log.warning("snapshot_failed", monitor=key[1], error=error)
        except Exception:
            failed = True
            metrics.snapshot_failures.inc()
            _log.exception("snapshot_failed", monitor=key[1])
        finally:
            with self._guard:
                self._storing.discard(key)
                self._not_before.pop(key, None)
                if failed:
                    self._not_before[key] = time.monotonic() + RETRY_S

    def _replace_snapshot(self, key: Key) -> None:
        tenant, monitor_id, uid = key
        with self._states.hold(tenant, monitor_id):
            state = self._states.get(key)
            if state is None:
                return
            data, epoch, sequence, erasures = to_bytes(state.monitor), state.epoch, state.sequence, state.erasures
        snapshot = write_snapshot(self._store, (monitor_id, uid), data, epoch, sequence, erasures=erasures)
        unused: Snapshot | None = snapshot
        with self._database.session() as session:
            row = session.scalar(sa.select(MonitorRow).where(MonitorRow.id == monitor_id).with_for_update())
            if (
                row is not None
                and (row.uid, row.epoch, count_erasures(row.snapshot["key"])) == (uid, epoch, erasures)
                and row.snapshot["sequence"] < sequence
            ):
                unused = None if row.earlier_snapshot is None else Snapshot.model_validate(row.earlier_snapshot)
                row.earlier_snapshot, row.snapshot = row.snapshot, snapshot.model_dump(mode="json")
        delete_unused(self._store, unused)
