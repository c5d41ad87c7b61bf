"""Starts new epochs of monitors. A new epoch uses a new reference from the next observation on.

Slow work is done before any row is locked, and objects are written to the store outside of transactions. Even if the
store is unavailable or the reference is large, a new epoch must not block observations of other monitors. It must not
block the renewal of the leader's lease, either.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from vfmalign.client.messages.monitors import MonitorReference
from vfmalign.core.domain.errors import Unavailable
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.database.database import Database
from vfmalign.monitoring.sequential import EpochStart, Monitor, prepare_epoch, to_bytes
from vfmalign.monitoring.sequential.epoch import Epoch
from vfmalign.monitoring.service.references import LoadedReference, make_options
from vfmalign.monitoring.service.replay import StateReader
from vfmalign.monitoring.service.repository import StoredMonitor, check_epoch, get_epoch, get_row, make_epoch
from vfmalign.monitoring.service.snapshots import Snapshot, count_erasures, delete_unused, write_snapshot
from vfmalign.monitoring.service.states import State, States
from vfmalign.monitoring.service.status import describe_status
from vfmalign.monitoring.tables import InputRow, MonitorRow, WindowRow

_ATTEMPTS = 5


class EpochKeeper:
    """Starts epochs of the monitors of one tenant.

    Args:
        database: database of its monitors.
        store: object store of the monitors' snapshots.
        states: cached states of all tenants.
    """

    def __init__(self, database: Database, store: ObjectStore, states: States) -> None:
        self._database, self._store, self._states = database, store, states
        self._reader = StateReader(database, store, states)

    def replace_reference(
        self,
        monitor: StoredMonitor,
        epoch: int,
        start: EpochStart,
        requested: MonitorReference,
        reference: LoadedReference,
    ) -> None:
        """Begins a new epoch. Repeating the request changes nothing.

        Raises:
            NotFound: the monitor was deleted.
            InvalidInput: an earlier epoch has seen a patient of the reference; see `Monitor.begin_epoch`.
            PreconditionFailed: the given epoch is not the current epoch.
            Unavailable: the database or the store is unavailable, or other processes continuously record observations.
        """
        with self._database.snapshot() as session:
            row = get_row(session, monitor.id, monitor.uid)
            if _has_begun(session, row, epoch, start, requested):
                return
            check_epoch(row, epoch)
        rows_GC = next(iter(reference.layers.values()))
        prepared = prepare_epoch(
            make_options(monitor.spec), epoch + 1, start, rows_GC, reference.patients, strata=reference.strata
        )
        with self._states.hold(self._database.tenant, monitor.id):
            for _ in range(_ATTEMPTS):
                if self._begin(monitor, prepared, requested, reference):
                    return
        raise Unavailable(
            "other processes of the service record observations of the monitor continuously",
            subject=monitor.id,
            remedy="pause the monitor, repeat the call, and resume it",
        )

    def _begin(
        self, monitor: StoredMonitor, prepared: Epoch, requested: MonitorReference, reference: LoadedReference
    ) -> bool:
        """Begins a prepared epoch; returns False if an observation has arrived since its state was stored."""
        number = prepared.draws.epoch
        state = self._reader.warm(monitor.id)
        with self._database.snapshot() as session:
            row = get_row(session, monitor.id, monitor.uid)
            if _has_begun(session, row, number - 1, prepared.start, requested):
                return True
            check_epoch(row, number - 1)
        if (state.epoch, state.erasures) != (row.epoch, count_erasures(row.snapshot["key"])):
            return False
        key = self._database.tenant, row.id, row.uid
        state.monitor.begin_epoch(prepared)
        self._states.drop(key)  # the state in memory has changed, but is not recorded
        data, erasures = to_bytes(state.monitor), state.erasures
        snapshot = write_snapshot(self._store, key[1:], data, number, state.sequence, erasures=erasures)
        unused: Snapshot | None = snapshot
        begun = False
        try:
            with self._database.session() as session:
                row = get_row(session, monitor.id, monitor.uid, lock=True)
                is_current = (row.epoch, count_erasures(row.snapshot["key"])) == (number - 1, erasures)
                if is_current and not _has_more(session, row, state):
                    unused = _record(session, row, state.monitor, snapshot, reference)
                    begun = True
        except Unavailable:
            unused = None  # it may have been recorded; if not, the leader deletes it later
            raise
        finally:
            delete_unused(self._store, unused)
        if begun:
            self._states.put(key, State(state.monitor, number, state.sequence, erasures, state.received_at))
        return begun


def _record(
    session: Session, row: MonitorRow, monitor: Monitor, snapshot: Snapshot, reference: LoadedReference
) -> Snapshot | None:
    """Records the start of an epoch; returns the snapshot that is no longer used."""
    session.execute(sa.delete(WindowRow).where(WindowRow.monitor_id == row.id))  # an earlier epoch shows no windows
    status = describe_status(monitor, None, [])
    get_epoch(session, row.id, row.epoch).rows = row.status["rows"]
    row.epoch, row.status = row.epoch + 1, status
    session.add(make_epoch(row.id, row.epoch, monitor.epoch.start, reference, status))
    unused: dict[str, Any] | None = row.earlier_snapshot
    row.earlier_snapshot, row.snapshot = row.snapshot, snapshot.model_dump(mode="json")
    row.origin, row.model_id = reference.origin.model_dump(mode="json"), reference.model_id
    row.layers = {name: rows_GC.shape[1] for name, rows_GC in reference.layers.items()}
    return None if unused is None else Snapshot.model_validate(unused)


def _has_begun(session: Session, row: MonitorRow, epoch: int, start: EpochStart, requested: MonitorReference) -> bool:
    """Whether this request already began the current epoch."""
    if row.epoch != epoch + 1:
        return False
    current = get_epoch(session, row.id, row.epoch)
    digests = {"", current.manifest_sha256}
    return (current.start, current.feature_set_id) == (start.value, requested.feature_set_id) and (
        requested.manifest_sha256 in digests
    )


def _has_more(session: Session, row: MonitorRow, state: State) -> bool:
    """Whether observations were recorded that are missing in a state. Observations of a paused monitor do not count."""
    query = sa.select(InputRow.sequence).where(InputRow.monitor_id == row.id, InputRow.sequence > state.sequence)
    return session.scalar(query.limit(1)) is not None
