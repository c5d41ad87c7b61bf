"""Recording of observations, and the state that follows from them.

The database is the log. A call takes the lock of the monitor's row, brings the state in memory up to the last recorded
observation, lets it take the new ones, and records what they did, all in one transaction. Any process may therefore
serve any call: what another one has recorded is repeated from the log. A process that is killed loses what it has not
recorded, which its caller sends again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import sqlalchemy as sa
from safetensors.numpy import load
from sqlalchemy.orm import Session

from vfmalign.client.messages.monitors import FeatureOrigin, MonitorReference
from vfmalign.core.domain.errors import DataLoss, PreconditionFailed, VfmalignError
from vfmalign.core.runtime import logs
from vfmalign.core.runtime.threads import Threads
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.database.database import Database
from vfmalign.database.tables import now
from vfmalign.monitoring import metrics
from vfmalign.monitoring.sequential import (
    ChannelShift,
    Component,
    EpochStart,
    Observation,
    get_channel_shifts,
    to_bytes,
)
from vfmalign.monitoring.service.log import (
    LOG_COLUMNS,
    RESULT_COLUMNS,
    add_evidence,
    count,
    get_day,
    get_label,
    make_input,
    make_observation,
    make_results,
)
from vfmalign.monitoring.service.observations import IncomingObservation
from vfmalign.monitoring.service.references import LoadedReference
from vfmalign.monitoring.service.repository import PAUSED, Watched, check_epoch, get_epoch, get_row, make_epoch
from vfmalign.monitoring.service.snapshots import RESTORE, Snapshot, read_snapshot, write_snapshot
from vfmalign.monitoring.service.states import Key, State, States
from vfmalign.monitoring.service.status import describe_status, finite_or_none
from vfmalign.monitoring.tables import INPUTS, OBSERVATIONS, InputRow, MonitorRow, ObservationRow

CHUNK_ROWS = 64
"""Observations of one transaction, so that it holds its lock shortly."""
_REPLAY_ROWS = 256
SNAPSHOTS = Threads(1, "snapshots")
_log = logs.get(__name__)


class Outdated(PreconditionFailed):
    """Observations were checked against what a monitor does not watch any more: read them again."""

    reason = "MONITOR_CHANGED"


class EvidenceKeeper:
    """Evidence of the monitors of a tenant.

    Args:
        database: its monitors and observations.
        store: its snapshots.
        states: of all tenants.
        snapshot_rows: observations after which a state is stored.
    """

    def __init__(self, database: Database, store: ObjectStore, states: States, snapshot_rows: int) -> None:
        self._database, self._store, self._states = database, store, states
        self._snapshot_rows = snapshot_rows
        self._storing: set[Key] = set()

    def record(
        self, monitor_id: str, watched: Watched, origin: FeatureOrigin, observations: Sequence[IncomingObservation]
    ) -> list[dict[str, Any]]:
        """Records observations in this order; returns what each did, as `make_results` describes it.

        Args:
            monitor_id: the monitor.
            watched: what the observations were checked against.
            origin: what produced their features.
            observations: checked against the monitor.

        Raises:
            NotFound: the monitor was deleted.
            PreconditionFailed: it watches features of another origin.
            Outdated: `watched` is not what it watches now.
            Unavailable, DataLoss: see `Database` and `read_snapshot`. Some of the observations may have been recorded.
        """
        results: list[dict[str, Any]] = []
        for start in range(0, len(observations), CHUNK_ROWS):
            results += self._record_chunk(monitor_id, watched, origin, observations[start : start + CHUNK_ROWS])
        return results

    def replace_reference(
        self, monitor_id: str, epoch: int, start: EpochStart, requested: MonitorReference, reference: LoadedReference
    ) -> None:
        """Begins a new epoch.

        Raises:
            InvalidInput: an earlier epoch has seen a patient of the reference, and `start` says that none has.
            PreconditionFailed: the epoch is not the current one.
        """
        with self._states.get_lock(self._database.tenant, monitor_id):
            state = self._warm(monitor_id)
            unused = None
            with self._database.session() as session:
                row = get_row(session, monitor_id, lock=True)
                if self._has_begun(session, row, epoch, start, requested):
                    return
                check_epoch(row, epoch)
                self._catch_up(session, row, state)
                self._states.drop(self._get_key(row))  # the state is changed before it is recorded
                rows_GC = next(iter(reference.layers.values()))
                state.monitor.start_epoch(start, rows_GC, reference.patients, reference.strata)
                state.epoch += 1
                status = describe_status(state.monitor, None, [])
                snapshot = write_snapshot(
                    self._store, (monitor_id, row.uid), to_bytes(state.monitor), state.epoch, state.sequence
                )
                get_epoch(session, monitor_id, epoch).rows = row.status["rows"]
                session.add(make_epoch(monitor_id, state.epoch, start, reference, status))
                row.epoch, row.status = state.epoch, status
                unused = row.earlier_snapshot
                row.earlier_snapshot, row.snapshot = row.snapshot, snapshot.model_dump(mode="json")
                row.origin, row.model_id = reference.origin.model_dump(mode="json"), reference.model_id
                row.layers = {name: rows_GC.shape[1] for name, rows_GC in reference.layers.items()}
            self._states.put(self._get_key(row), state)
        if unused is not None:
            self._store.delete(Snapshot.model_validate(unused).key)

    def get_channel_shifts(self, monitor_id: str, rows_NC: np.ndarray[Any, Any]) -> list[ChannelShift]:
        """Returns which channels of the layer that raises the alarm have moved."""
        with self._states.get_lock(self._database.tenant, monitor_id):
            reference = self._warm(monitor_id).monitor.reference
        return get_channel_shifts(reference, rows_NC)

    def forget(self, monitor_id: str, uid: str) -> None:
        """Forgets a monitor that was deleted."""
        tenant = self._database.tenant
        self._states.drop((tenant, monitor_id, uid))
        metrics.forget_observations(tenant, monitor_id)

    def _has_begun(
        self, session: Session, row: MonitorRow, epoch: int, start: EpochStart, requested: MonitorReference
    ) -> bool:
        """Whether the same request began the current epoch."""
        if row.epoch != epoch + 1:
            return False
        current = get_epoch(session, row.id, row.epoch)
        digests = {"", current.manifest_sha256}
        return (current.start, current.feature_set_id) == (start.value, requested.feature_set_id) and (
            requested.manifest_sha256 in digests
        )

    # --- recording ---

    def _record_chunk(
        self, monitor_id: str, watched: Watched, origin: FeatureOrigin, observations: Sequence[IncomingObservation]
    ) -> list[dict[str, Any]]:
        key = self._database.tenant, monitor_id, watched.uid
        with self._states.get_lock(self._database.tenant, monitor_id):
            state = self._states.get(key) or self._warm(monitor_id)
            with self._database.session() as session, session.no_autoflush:
                row = get_row(session, monitor_id, lock=True)
                _check_pins(row, watched, origin)
                self._catch_up(session, row, state)
                self._states.drop(key)  # the state is changed before it is recorded
                recorded = self._find_recorded(session, monitor_id, [one.id for one in observations])
                results = self._add(session, row, state, observations, recorded)
            self._states.put(key, state)
        for result in results:
            metrics.observations.labels(key[0], monitor_id, get_label(result)).inc()
        if state.sequence - row.snapshot["sequence"] >= self._snapshot_rows and key not in self._storing:
            self._storing.add(key)
            SNAPSHOTS.submit(self._store_snapshot, monitor_id, key)
        return results

    def _find_recorded(self, session: Session, monitor_id: str, ids: list[str]) -> dict[str, dict[str, Any]]:
        columns = [getattr(ObservationRow, name) for name in RESULT_COLUMNS]
        query = sa.select(*columns).where(
            ObservationRow.monitor_id == monitor_id, ObservationRow.observation_id.in_(ids)
        )
        return {one["observation_id"]: dict(one) for one in session.execute(query).mappings()}

    def _add(
        self,
        session: Session,
        row: MonitorRow,
        state: State,
        observations: Sequence[IncomingObservation],
        recorded: dict[str, dict[str, Any]],
    ) -> list[dict[str, Any]]:
        """Lets the state take new observations, and records what they did; returns the results of all."""
        new = {one.id: one for one in reversed(observations) if one.id not in recorded}
        fresh = [one for one in observations if new.get(one.id) is one]
        received = now()
        paused = row.state == PAUSED
        layer = next(iter(row.layers))
        days = [get_day(one, received) for one in fresh]
        taken: list[Observation] = []
        if fresh and not paused:
            taken = state.monitor.observe(
                np.stack([one.layers[layer] for one in fresh]),
                [one.id for one in fresh],
                [one.patient for one in fresh],
                [one.stratum for one in fresh],
                days,
            )
        values = [make_observation(row, one, received) for one in fresh]
        for value, observation in zip(values, taken, strict=False):
            add_evidence(value, observation)
        state.sequence = row.sequence
        if values:
            session.execute(sa.insert(OBSERVATIONS), values)
        if taken:
            session.execute(sa.insert(INPUTS), [make_input(*one) for one in zip(values, fresh, days, strict=True)])
            row.status = describe_status(state.monitor, row.status["peak"], taken)
        self._record_alarm(session, state, values)
        results = make_results(observations, fresh, values, recorded)
        count(row, results, values)
        if fresh:
            row.last_observed_at = received
            acquired = fresh[-1].acquired_at
            row.lag_s = None if acquired is None else max(0.0, (received - acquired).total_seconds())
        return results

    def _record_alarm(self, session: Session, state: State, values: Sequence[dict[str, Any]]) -> None:
        alarm = state.monitor.epoch.alarm
        for value in values:
            if not value["raised_alarm"] or alarm is None:
                continue
            epoch = get_epoch(session, value["monitor_id"], value["epoch"])
            epoch.alarm = {
                "row": alarm.row,
                "observation_id": alarm.observation,
                "components": [component.value for component in alarm.components],
                "raise_time": value["received_at"].isoformat(),
            }
            _log.warning("drift_alarm", monitor=value["monitor_id"], epoch=value["epoch"], row=alarm.row)

    # --- states ---

    def _get_key(self, row: MonitorRow) -> Key:
        return self._database.tenant, row.id, row.uid

    def _warm(self, monitor_id: str) -> State:
        """Returns the state as of some observation, read outside of a transaction that writes."""
        with self._database.snapshot() as session:
            row = get_row(session, monitor_id)
            key = self._get_key(row)
            state = self._states.get(key)
            if state is None or state.epoch != row.epoch or state.sequence > row.sequence:
                state = self._read(row)
            self._catch_up(session, row, state)
        self._states.put(key, state)
        return state

    def _read(self, row: MonitorRow) -> State:
        """Reads the last snapshot, or, where it is lost, the one before: the log still has what came after it."""
        snapshots = [Snapshot.model_validate(one) for one in (row.snapshot, row.earlier_snapshot) if one is not None]
        for place, snapshot in enumerate(snapshots):
            try:
                monitor = read_snapshot(self._store, row.id, snapshot)
            except DataLoss:
                if place + 1 == len(snapshots):
                    raise
                _log.warning("snapshot_lost", monitor=row.id, sequence=snapshot.sequence)
                continue
            if monitor.status.epoch == row.epoch:
                return State(monitor, row.epoch, snapshot.sequence)
        return State(read_snapshot(self._store, row.id, snapshots[0]), row.epoch, snapshots[0].sequence)

    def _catch_up(self, session: Session, row: MonitorRow, state: State) -> None:
        """Lets a state take the recorded observations that it lacks."""
        if state.epoch != row.epoch:  # another process has begun an epoch since `_warm`
            fresh = self._read(row)
            state.monitor, state.epoch, state.sequence = fresh.monitor, fresh.epoch, fresh.sequence
        while state.sequence < row.sequence:
            query = (
                sa.select(InputRow)
                .where(InputRow.monitor_id == row.id, InputRow.sequence > state.sequence)
                .order_by(InputRow.sequence)
                .limit(_REPLAY_ROWS)
            )
            inputs = session.scalars(query).all()
            if not inputs:  # the rest was recorded while the monitor was paused
                state.sequence = row.sequence
            else:
                self._repeat(session, row, state, inputs)
        if state.monitor.epoch.rows != row.status["rows"]:
            raise DataLoss(
                f"its state has {state.monitor.epoch.rows:,} rows, and {row.status['rows']:,} were recorded",
                kind="monitor",
                owner=row.id,
                subject=row.id,
                remedy=RESTORE,
            )

    def _repeat(self, session: Session, row: MonitorRow, state: State, inputs: Sequence[InputRow]) -> None:
        layer = next(iter(row.layers))
        taken = state.monitor.observe(
            np.stack([load(one.features)[layer] for one in inputs]),
            [one.observation_id for one in inputs],
            [one.patient for one in inputs],
            [one.stratum for one in inputs],
            [one.day for one in inputs],
        )
        state.sequence = inputs[-1].sequence
        table = ObservationRow
        last = session.scalar(sa.select(table).where(table.monitor_id == row.id, table.sequence == inputs[-1].sequence))
        if last is not None and taken[-1].p_value is not None:
            recorded = [getattr(last, name) for name in LOG_COLUMNS]
            if recorded != [finite_or_none(taken[-1].log_evidence[component]) for component in Component]:
                # Machines of other kinds may round other scores; the last bits then differ from here on.
                metrics.replays_that_differ.inc()
                _log.warning("replay_differs", monitor=row.id, sequence=state.sequence)

    # --- snapshots ---

    def _store_snapshot(self, monitor_id: str, key: Key) -> None:
        try:
            self._replace_snapshot(monitor_id, key)
        except VfmalignError as error:  # the log keeps what a restart repeats; the next observation tries again
            metrics.snapshot_failures.inc()
            _log.warning("snapshot_failed", monitor=monitor_id, error=str(error))
        finally:
            self._storing.discard(key)

    def _replace_snapshot(self, monitor_id: str, key: Key) -> None:
        with self._states.get_lock(key[0], monitor_id):
            state = self._states.get(key)
            if state is None:
                return
            data, epoch, sequence = to_bytes(state.monitor), state.epoch, state.sequence
        snapshot = write_snapshot(self._store, (monitor_id, key[2]), data, epoch, sequence)
        unused: Snapshot | None = snapshot
        with self._database.session() as session:
            row = session.scalar(sa.select(MonitorRow).where(MonitorRow.id == monitor_id).with_for_update())
            if row is not None and (row.uid, row.epoch) == (key[2], epoch) and row.snapshot["sequence"] < sequence:
                unused = None if row.earlier_snapshot is None else Snapshot.model_validate(row.earlier_snapshot)
                row.earlier_snapshot, row.snapshot = row.snapshot, snapshot.model_dump(mode="json")
        if unused is not None:
            self._store.delete(unused.key)


def _check_pins(row: MonitorRow, watched: Watched, origin: FeatureOrigin) -> None:
    if Watched.of(row) != watched:
        raise Outdated("the monitor changed while the observations were read", subject=row.id, remedy="send them again")
    if FeatureOrigin.model_validate(row.origin) != origin:
        raise PreconditionFailed(
            "the monitor watches features of other weights, another preprocessing or another input transform",
            subject=row.id,
            remedy="extract with the model of the monitor, or replace its reference by one of the new model",
            reason="WRONG_ORIGIN",
        )
