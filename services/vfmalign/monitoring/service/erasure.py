"""Erasure of patients from monitors.

The inputs of a patient are deleted. The ids and digests of the patient's observations become random, and the patient is
removed from the state. Two new snapshots include all observations of the patient, so that no restart needs the inputs.
The evidence does not change. Every process caches states in memory. The number of erasures in the snapshot shows a
process that its cached state is no longer valid.

A state also contains standardised rows, with which later rows are compared. The standardised rows stay until the next
epoch.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import sqlalchemy as sa
from sqlalchemy.orm import Session

from vfmalign.client.messages.erasure import ErasedObject
from vfmalign.core.domain.errors import DataLoss, NotFound, PreconditionFailed, Unavailable
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.database.database import Database
from vfmalign.erasure.receipts import Erasures, Plan, StoredErasure
from vfmalign.monitoring.sequential import Monitor, get_patient_digest, to_bytes
from vfmalign.monitoring.service.replay import StateReader
from vfmalign.monitoring.service.repository import get_row
from vfmalign.monitoring.service.snapshots import Snapshot, count_erasures, delete_erased, delete_unused, write_snapshot
from vfmalign.monitoring.service.states import State, States
from vfmalign.monitoring.tables import EpochRow, InputRow, MonitorRow, ObservationRow

_ATTEMPTS = 5
_ROWS_AT_ONCE = 10_000
_STAYING_ROWS = "standardised rows stay in its state until the next epoch, because later rows are compared with them"
_IN_REFERENCE = "the patient belongs to the reference, which stays in the state until another one replaces it"
_DAMAGED = "its state cannot be read; restore it or delete the monitor, then erase again"
_OLDER = "no longer stored with a group; if one is the patient's, erase it by its id"
_ERASED = "erased-"
"""Beginning of the new ids of erased observations."""


@dataclass(frozen=True)
class _Found:
    """What a monitor has of a patient.

    Attributes:
        sequences: numbers of the patient's observations.
        ids: a new id of each observation, by its id.
        patients: digests that the state must forget.
        staying_rows: number of standardised rows that stay in the state.
        is_in_reference: whether the patient belongs to the reference.
        has_older: whether the monitor has observations of unknown patients.
    """

    sequences: frozenset[int]
    ids: dict[str, str]
    patients: frozenset[int]
    staying_rows: int
    is_in_reference: bool
    has_older: bool

    @property
    def is_removable(self) -> bool:
        """Whether there is anything to remove."""
        return bool(self.sequences or self.ids or self.patients)

    def describe(self, monitor_id: str) -> list[ErasedObject]:
        """Returns the entries of the receipt."""
        entry = partial(ErasedObject, id=monitor_id)
        objects = []
        if self.sequences:
            objects.append(entry(kind="observation", outcome="removed", count=len(self.sequences)))
        elif self.is_removable:
            objects.append(entry(kind="monitor", outcome="changed"))
        if self.has_older:
            objects.append(entry(kind="older observation", outcome="kept", note=_OLDER))
        if self.staying_rows:
            objects.append(entry(kind="monitor", outcome="kept", count=self.staying_rows, note=_STAYING_ROWS))
        if self.is_in_reference:
            objects.append(entry(kind="reference", outcome="kept", note=_IN_REFERENCE))
        return objects


class MonitorEraser:
    """Erases patients from the monitors of a tenant; see `Eraser`.

    Args:
        database: database of its monitors.
        store: object store of the tenant's snapshots.
        states: cached states of all tenants.
    """

    def __init__(self, database: Database, store: ObjectStore, states: States) -> None:
        self._database, self._store, self._states = database, store, states
        self._reader = StateReader(database, store, states)

    def plan(self, erasure: StoredErasure) -> Plan:
        """Returns what `remove` would remove now.

        If the state of a monitor is lost or damaged, the monitor is kept, and the receipt says so.

        Raises:
            Unavailable: the store or the database does not answer.
        """
        objects: list[ErasedObject] = []
        ids: list[str] = []
        for monitor_id in self._list_monitors():
            try:
                monitor = self._reader.read_stored(monitor_id)
                with self._database.snapshot() as session:
                    found = _find(session, monitor_id, monitor, erasure)
            except NotFound:  # deleted meanwhile
                continue
            except (DataLoss, PreconditionFailed):
                objects.append(ErasedObject(kind="monitor", id=monitor_id, outcome="kept", note=_DAMAGED))
                continue
            objects += found.describe(monitor_id)
            ids += found.ids
        return Plan(objects=objects, identifiers=erasure.digest_all(ids))

    def remove(self, erasure: StoredErasure) -> bool:
        """Removes the data; returns False if other processes continuously record observations of the patient.

        Raises:
            Unavailable: the store or the database does not answer.
        """
        named = {one.id for one in erasure.receipt.objects}
        done = True
        for monitor_id in self._list_monitors():
            if monitor_id in named:
                with suppress(NotFound, DataLoss, PreconditionFailed):
                    done &= self._erase(monitor_id, erasure)
        return self._database.purge() and done

    def _list_monitors(self) -> Sequence[str]:
        with self._database.snapshot() as session:
            return session.scalars(sa.select(MonitorRow.id).order_by(MonitorRow.id)).all()

    def _erase(self, monitor_id: str, erasure: StoredErasure) -> bool:
        with self._states.hold(self._database.tenant, monitor_id):
            done = any(self._try_to_erase(monitor_id, erasure) for _ in range(_ATTEMPTS))
        with self._database.snapshot() as session:
            row = get_row(session, monitor_id)
        delete_erased(self._store, monitor_id, row.uid, count_erasures(row.snapshot["key"]))
        return done

    def _try_to_erase(self, monitor_id: str, erasure: StoredErasure) -> bool:
        """Returns False if observations of the patient or another epoch have arrived meanwhile."""
        with self._database.snapshot() as session:
            uid = get_row(session, monitor_id).uid
        state = self._reader.warm(monitor_id)
        with self._database.snapshot() as session:
            get_row(session, monitor_id, uid)
            found = _find(session, monitor_id, state.monitor, erasure)
        if not found.is_removable:
            return True
        self._states.drop((self._database.tenant, monitor_id, uid))  # the state changes before it is recorded
        state.monitor.forget(found.patients, found.ids)
        unused = snapshots = self._write(monitor_id, uid, state)
        try:
            with self._database.session() as session:
                row = get_row(session, monitor_id, uid, lock=True)
                is_current = (row.epoch, count_erasures(row.snapshot["key"])) == (state.epoch, state.erasures)
                if is_current and not _find_rows(session, monitor_id, erasure, state.sequence):
                    _record(session, row, found, snapshots)
                    unused = []
        except Unavailable:
            unused = []  # they may have been recorded; if not, the leader deletes them later
            raise
        finally:
            for snapshot in unused:
                delete_unused(self._store, snapshot)
        return not unused

    def _write(self, monitor_id: str, uid: str, state: State) -> list[Snapshot]:
        data, owner = to_bytes(state.monitor), (monitor_id, uid)
        erasures = state.erasures + 1
        return [
            write_snapshot(self._store, owner, data, state.epoch, state.sequence, erasures=erasures) for _ in range(2)
        ]


def make_erasures(database: Database, store: ObjectStore, states: States) -> Erasures:
    """Returns the erasures of a tenant in this service; see `MonitorEraser`."""
    return Erasures(
        store, "monitoring", MonitorEraser(database, store, states), lambda group: (_name(get_patient_digest(group)),)
    )


def _name(digest: int) -> str:
    """Returns the identifier of a patient whom states know by a digest."""
    return f"patient {digest:016x}"


def _find(session: Session, monitor_id: str, monitor: Monitor, erasure: StoredErasure) -> _Found:
    rows = _find_rows(session, monitor_id, erasure, 0)
    named = {number for one in rows for number in [one.row] if one.epoch == monitor.epoch.draws.epoch and number}
    ids = {one.id for one in rows if one.id}
    ids |= {one for number, one in monitor.list_named() if number in named or erasure.has_identifier(one)}
    known = monitor.patients.list_digests()
    patients = {one for one in known if erasure.has_identifier(_name(one))}
    patients |= known & {get_patient_digest(one.patient) for one in rows if one.patient}
    reference = monitor.reference.patients
    return _Found(
        sequences=frozenset(one.sequence for one in rows),
        ids={one: f"{_ERASED}{secrets.token_hex(8)}" for one in sorted(ids)},
        patients=frozenset(patients - reference),
        staying_rows=len(named) if monitor.epoch.blocks_are_active else 0,
        is_in_reference=not reference.isdisjoint(patients),
        has_older=_has_older(session, monitor_id),
    )


def _has_older(session: Session, monitor_id: str) -> bool:
    of_input = (InputRow.monitor_id == ObservationRow.monitor_id) & (InputRow.sequence == ObservationRow.sequence)
    query = sa.select(ObservationRow.sequence).outerjoin(InputRow, of_input)
    is_older = InputRow.sequence.is_(None) & ~ObservationRow.observation_id.startswith(_ERASED)
    return session.scalar(query.where(ObservationRow.monitor_id == monitor_id, is_older).limit(1)) is not None


@dataclass(frozen=True)
class _Row:
    """An observation of the patient; `id` or `patient` is empty if it is no longer stored."""

    sequence: int
    epoch: int
    row: int
    id: str = ""
    patient: str = ""


def _find_rows(session: Session, monitor_id: str, erasure: StoredErasure, after: int) -> list[_Row]:
    """Returns the patient's observations with a number above `after`."""
    columns = InputRow.sequence, InputRow.epoch, InputRow.row, InputRow.patient
    query = sa.select(*columns).where(InputRow.monitor_id == monitor_id, InputRow.sequence > after)
    inputs = {one.sequence: _Row(*one[:3], patient=one.patient) for one in session.execute(query)}
    found = {number: one for number, one in inputs.items() if erasure.matches(one.patient)}
    table = ObservationRow
    stored = sa.select(table.sequence, table.epoch, table.row, table.observation_id).where(
        table.monitor_id == monitor_id, table.sequence > after
    )
    for one in session.execute(stored.execution_options(yield_per=_ROWS_AT_ONCE)):
        if one.sequence in found or erasure.has_identifier(one.observation_id):
            known = inputs.get(one.sequence)
            found[one.sequence] = _Row(*one, patient="" if known is None else known.patient)
    return list(found.values())


def _record(session: Session, row: MonitorRow, found: _Found, snapshots: Sequence[Snapshot]) -> None:
    row.snapshot, row.earlier_snapshot = (one.model_dump(mode="json") for one in snapshots)
    extreme = [one for one in row.status["extreme_rows"] if one[1] not in found.ids]
    row.status = row.status | {"extreme_rows": extreme}
    for epoch in session.scalars(sa.select(EpochRow).where(EpochRow.monitor_id == row.id)):
        if epoch.alarm is not None and epoch.alarm["observation_id"] in found.ids:
            epoch.alarm = epoch.alarm | {"observation_id": found.ids[epoch.alarm["observation_id"]]}
    of_patient = ObservationRow.monitor_id == row.id, ObservationRow.sequence.in_(found.sequences)
    for one in session.scalars(sa.select(ObservationRow).where(*of_patient)):
        one.observation_id, one.content_digest = found.ids[one.observation_id], secrets.token_hex(32)
        one.acquired_at = None
    inputs = sa.delete(InputRow).where(InputRow.monitor_id == row.id, InputRow.sequence.in_(found.sequences))
    session.execute(inputs, execution_options={"synchronize_session": False})
