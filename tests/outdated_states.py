"""Monitors as the version before ranks within strata left them, after the migration of their database."""

from __future__ import annotations

import io
import json

import numpy as np
import sqlalchemy as sa

from vfmalign.core.domain.stored_objects import StoredFile
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.database.database import Database
from vfmalign.monitoring.tables import MonitorRow, ObservationRow


def outdate(database: Database, store: ObjectStore, monitor_id: str) -> None:
    """Makes the states of a monitor ones of version 1, and its evidence that of three components."""
    with database.session() as session:
        monitor = session.scalars(sa.select(MonitorRow).where(MonitorRow.id == monitor_id)).one()
        for name in ("snapshot", "earlier_snapshot"):
            if (snapshot := getattr(monitor, name)) is not None:
                data = to_version_1(store.get(snapshot["key"]))
                store.put(snapshot["key"], data)
                file = StoredFile.of(snapshot["key"], data)
                setattr(monitor, name, snapshot | {"sha256": file.sha256, "size_bytes": file.size_bytes})
        components = {name: one for name, one in monitor.status["components"].items() if name != "channels"}
        monitor.status = monitor.status | {"components": components, "peak": None}
        other = {"log_rows": 1.25, "log_channels": None}
        entered = (ObservationRow.monitor_id == monitor_id) & (ObservationRow.row > 0)
        session.execute(sa.update(ObservationRow).where(entered).values(other))


def to_version_1(state: bytes) -> bytes:
    """Returns a state whose version is 1, and whose ranks are not those of this one."""
    with np.load(io.BytesIO(state), allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    header = json.loads(arrays["header"].tobytes())
    kept = {name: array for name, array in arrays.items() if "." not in name}  # neither strata nor evidence
    kept["header"] = np.frombuffer(json.dumps({"version": 1, "options": header["options"]}).encode(), np.uint8)
    kept["scores"] = np.array([np.nan, -1.0, 7.0])
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **kept)
    return file.getvalue()
