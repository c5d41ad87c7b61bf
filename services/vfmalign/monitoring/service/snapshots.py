"""Snapshots of monitors' states in object storage, `monitors/<id>/<uid>/state/<epoch>-<sequence>-<digest>.npz`."""

from __future__ import annotations

from vfmalign.core.domain.errors import DataLoss, InvalidInput
from vfmalign.core.domain.stored_objects import StoredFile
from vfmalign.core.storage.keys import monitor_key
from vfmalign.core.storage.lost_objects import lost_as
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.monitoring.sequential import Monitor, from_bytes

RESTORE = (
    "restore the bucket and the database from backups of one moment, or delete the monitor and create it again, which "
    "begins its evidence anew"
)


class Snapshot(StoredFile):
    """A stored state.

    Attributes:
        sequence: number of the last observation that it has taken.
    """

    sequence: int


def write_snapshot(store: ObjectStore, owner: tuple[str, str], state: bytes, epoch: int, sequence: int) -> Snapshot:
    """Stores a state of a monitor, which its id and `uid` name, under a key of its own."""
    file = StoredFile.of("state", state)
    key = monitor_key(*owner, f"state/{epoch}-{sequence}-{file.sha256[:16]}.npz")
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


def delete_objects(store: ObjectStore, monitor_id: str, uid: str) -> None:
    """Deletes every object of a monitor."""
    for key in store.list(monitor_key(monitor_id, uid, "")):
        store.delete(key)
