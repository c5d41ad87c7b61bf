"""Snapshots of monitors' states in object storage, `monitors/<id>/<uid>/state/<epoch>-<sequence>-<random>.npz`."""

from __future__ import annotations

import uuid

from vfmalign.core.domain.errors import DataLoss, InvalidInput, VfmalignError
from vfmalign.core.domain.stored_objects import StoredFile
from vfmalign.core.runtime import logs
from vfmalign.core.storage.keys import monitor_key
from vfmalign.core.storage.lost_objects import lost_as
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.monitoring.sequential import Monitor, from_bytes

RESTORE = (
    "restore the bucket and the database from backups of one moment, or delete the monitor and create it again, which "
    "begins its evidence anew"
)
_log = logs.get(__name__)


class Snapshot(StoredFile):
    """A stored state.

    Attributes:
        sequence: number of the last observation that it has taken.
    """

    sequence: int


def write_snapshot(store: ObjectStore, owner: tuple[str, str], state: bytes, epoch: int, sequence: int) -> Snapshot:
    """Stores a state of a monitor, which its id and `uid` name.

    The key is the call's own: two processes may store the same state, and each deletes its object if it is not used.
    """
    key = monitor_key(*owner, f"state/{epoch}-{sequence}-{uuid.uuid4().hex[:16]}.npz")
    file = StoredFile.of(key, state)
    store.put(key, state)
    return Snapshot(key=key, sha256=file.sha256, size_bytes=file.size_bytes, sequence=sequence)


def read_snapshot(store: ObjectStore, monitor_id: str, snapshot: Snapshot) -> Monitor:
    """Reads a state.

    Raises:
        DataLoss: it is missing or was changed.
        Unavailable: the store does not answer.
    """
    with lost_as("monitor", monitor_id, RESTORE):
        data = store.get(snapshot.key, sha256=snapshot.sha256, max_bytes=snapshot.size_bytes)
    try:
        return from_bytes(data)
    except InvalidInput as error:
        raise DataLoss(error.message, kind="monitor", owner=monitor_id, subject=monitor_id, remedy=RESTORE) from error


def delete_unused(store: ObjectStore, snapshot: Snapshot | None) -> None:
    """Deletes a snapshot that no monitor uses, if the store answers; otherwise, the leader does so later."""
    if snapshot is None:
        return
    try:
        store.delete(snapshot.key)
    except VfmalignError as error:
        _log.warning("objects_not_deleted", error=str(error))


def delete_objects(store: ObjectStore, monitor_id: str, uid: str) -> None:
    """Deletes every object of a monitor."""
    for key in store.list(monitor_key(monitor_id, uid, "")):
        store.delete(key)
