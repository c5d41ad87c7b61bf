"""Updates the states of monitors to the last recorded observation.

A state is computed from a snapshot and the observations that were recorded after this snapshot. Snapshots are read and
observations are replayed outside of transactions. Slow work therefore does not lock the database or block other
monitors.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import sqlalchemy as sa
from safetensors.numpy import load
from sqlalchemy.orm import Session

from vfmalign.client.messages.monitors import MonitorSpec
from vfmalign.core.domain.errors import DataLoss, PreconditionFailed
from vfmalign.core.runtime import logs
from vfmalign.core.storage.lost_objects import EXTRACT_AGAIN, lost_as
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.database.database import Database
from vfmalign.monitoring import metrics
from vfmalign.monitoring.sequential import SEQUENTIAL, Monitor, OutdatedState
from vfmalign.monitoring.service.log import LOG_COLUMNS, Head, read_head
from vfmalign.monitoring.service.references import load_reference, make_options
from vfmalign.monitoring.service.snapshots import RESTORE, Snapshot, read_snapshot
from vfmalign.monitoring.service.states import Key, State, States
from vfmalign.monitoring.service.status import finite_or_none
from vfmalign.monitoring.tables import InputRow, ObservationRow

_REPLAY_ROWS = 256
_log = logs.get(__name__)


class StateReader:
    """Reads the states of the monitors of a tenant. Callers must have locked the monitor.

    Args:
        database: database of the tenant's monitors and observations.
        store: object store of the monitors' snapshots.
        states: cached states of all tenants.
    """

    def __init__(self, database: Database, store: ObjectStore, states: States) -> None:
        self._database, self._store, self._states = database, store, states

    def warm(self, monitor_id: str) -> State:
        """Returns the state after the last observation, and caches it in memory.

        Raises:
            NotFound: the id is unknown.
            DataLoss: the snapshots are lost, or do not match the recorded observations.
            PreconditionFailed: the snapshots are from an earlier version, and some observations are no longer stored.
            Unavailable: the database or the store does not answer.
            DeadlineExceeded, Cancelled: the call ended while it waited because other calls were reading states.
        """
        with ExitStack() as reading:
            return self._warm(monitor_id, reading)

    def _warm(self, monitor_id: str, reading: ExitStack) -> State:
        key: Key | None = None
        state: State | None = None
        lost: dict[str, Any] | None = None
        is_reading = False
        while True:
            with self._database.snapshot() as session:
                head = read_head(session, self._database.tenant, monitor_id)
                if head.key != key:  # the first round, or it was deleted and created again
                    key = head.key
                    state = self._states.get(key)
                if state is not None and not _can_take_up(session, head, state):
                    state = None
                inputs = [] if state is None else self._read_inputs(session, head, state)
            if state is None:
                if not is_reading:  # until the state is in the cache, which bounds its memory
                    reading.enter_context(self._states.limit_reading())
                    is_reading = True
                try:
                    state = self._read(head)
                except DataLoss:
                    if lost == head.snapshot:
                        raise
                    lost = head.snapshot  # another process may have replaced it: try once more
            elif inputs:
                self._states.drop(key)  # until it includes all of them
                self._repeat(head, state, inputs)
            else:
                _end_with(state, head)
                _check_rows(head, state)
                self._states.put(key, state)
                return state

    def catch_up(self, session: Session, head: Head, state: State) -> bool:
        """Replays the observations that other processes have recorded since `warm`. Runs within a transaction.

        Returns:
            True if the state now includes all observations. False if one transaction cannot replay all observations, or
            if the state belongs to another log. If the result is False, call `warm` again.
        """
        if not _can_take_up(session, head, state):
            return False
        inputs = self._read_inputs(session, head, state)
        if len(inputs) == _REPLAY_ROWS:
            return False
        if inputs:
            self._repeat(head, state, inputs)
        _end_with(state, head)
        _check_rows(head, state)
        return True

    def read_stored(self, monitor_id: str) -> Monitor:
        """Returns the stored state without caching it.

        The state may lack the last observations. For errors, see `warm`.
        """
        with self._database.snapshot() as session:
            head = read_head(session, self._database.tenant, monitor_id)
        with self._states.limit_reading():
            return self._read(head).monitor

    def _read(self, head: Head) -> State:
        """Reads the last snapshot, or the previous one if it is lost: the log still has the observations since then."""
        snapshots = [Snapshot.model_validate(one) for one in (head.snapshot, head.earlier_snapshot) if one is not None]
        for place, snapshot in enumerate(snapshots):
            try:
                monitor = read_snapshot(self._store, head.id, snapshot)
            except OutdatedState:
                return self._begin_again(head)
            except DataLoss:
                if place + 1 == len(snapshots):
                    raise
                _log.warning("snapshot_lost", monitor=head.id, sequence=snapshot.sequence)
                continue
            if monitor.status.epoch == head.epoch:
                return State(monitor, head.epoch, snapshot.sequence, head.erasures)
        first = snapshots[0]
        return State(read_snapshot(self._store, head.id, first), head.epoch, first.sequence, head.erasures)

    def _begin_again(self, head: Head) -> State:
        """Returns a state before the first observation, to replay all of them, because the stored state is outdated.

        Raises:
            DataLoss: the reference is lost.
            PreconditionFailed: the log no longer has all observations, or there were earlier epochs.
        """
        if head.epoch > 1 or _get_oldest(head):
            raise PreconditionFailed(
                "its state is from an earlier version, and not all of its observations are kept",
                subject=head.id,
                remedy="note its alarm, delete it, and create it again; its evidence then starts over",
            )
        spec = MonitorSpec.model_validate(head.spec)
        pinned = spec.reference
        with lost_as("feature_set", pinned.feature_set_id, EXTRACT_AGAIN):  # the service has recorded the digest
            loaded = load_reference(self._store, pinned, spec.layer, spec.descriptive_layers, spec.stratum)
        rows_GC = next(iter(loaded.layers.values()))
        _log.info("state_made_anew", monitor=head.id, observations=head.sequence)
        return State(Monitor(make_options(spec), rows_GC, loaded.patients, loaded.strata), head.epoch, 0)

    def _read_inputs(self, session: Session, head: Head, state: State) -> Sequence[tuple[InputRow, ObservationRow]]:
        """Returns the next observations that a state lacks, with their recorded effects."""
        if state.sequence == head.sequence:
            return []
        query = (
            sa.select(InputRow, ObservationRow)
            .join(
                ObservationRow,
                (ObservationRow.monitor_id == InputRow.monitor_id) & (ObservationRow.sequence == InputRow.sequence),
            )
            .where(InputRow.monitor_id == head.id, InputRow.sequence > state.sequence)
            .order_by(InputRow.sequence)
            .limit(_REPLAY_ROWS)
        )
        return [(one, what) for one, what in session.execute(query)]

    def _repeat(self, head: Head, state: State, recorded: Sequence[tuple[InputRow, ObservationRow]]) -> None:
        inputs = [one for one, _ in recorded]
        layer = next(iter(head.layers))
        taken = state.monitor.observe(
            np.stack([load(one.features)[layer] for one in inputs]),
            [what.observation_id for _, what in recorded],
            [one.patient for one in inputs],
            [one.stratum for one in inputs],
            [one.day for one in inputs],
        )
        state.sequence, state.received_at = inputs[-1].sequence, recorded[-1][1].received_at
        if any(one.raised_alarm for one in taken) and not any(what.raised_alarm for _, what in recorded):
            state.monitor.epoch.alarm = None  # the log has no alarm here: the next row raises and records it
        last = recorded[-1][1]
        if taken[-1].p_value is not None and last.log_channels is not None:  # earlier versions recorded other evidence
            values = [getattr(last, name) for name in LOG_COLUMNS]
            if values != [finite_or_none(taken[-1].log_evidence[component]) for component in SEQUENTIAL]:
                # Another kind of machine may round scores differently. From here on, the last bits then differ.
                metrics.replays_that_differ.inc()
                _log.warning("replay_differs", monitor=head.id, sequence=state.sequence)


def can_follow(state: State, head: Head) -> bool:
    """Returns whether the features are still stored for all observations that a state does not include.

    The leader deletes the features of observations that the previous snapshot includes. A process that was idle for a
    long time may therefore need a newer snapshot.
    """
    belongs = (state.epoch, state.erasures) == (head.epoch, head.erasures)
    return belongs and _get_oldest(head) <= state.sequence <= head.sequence


def _get_oldest(head: Head) -> int:
    """Returns the number of the last observation that may have lost its features."""
    return 0 if head.earlier_snapshot is None else int(head.earlier_snapshot["sequence"])


def _can_take_up(session: Session, head: Head, state: State) -> bool:
    """Whether a state can follow the log, and belongs to this log.

    A restore or a failover of the database may lose the last transactions. New observations then get the numbers of
    lost observations, and a state in memory may still include the lost observations.
    """
    if not can_follow(state, head):
        return False
    if state.received_at is None:
        return True
    if state.sequence == head.sequence:
        return state.received_at == head.last_observed_at
    return state.received_at == session.scalar(
        sa.select(ObservationRow.received_at).where(
            ObservationRow.monitor_id == head.id, ObservationRow.sequence == state.sequence
        )
    )


def _end_with(state: State, head: Head) -> None:
    """Marks a state as complete. It lacks only observations that were recorded while the monitor was paused."""
    state.sequence, state.received_at = head.sequence, head.last_observed_at


def _check_rows(head: Head, state: State) -> None:
    if state.monitor.epoch.rows != head.status["rows"]:
        raise DataLoss(
            f"its state has {state.monitor.epoch.rows:,} rows, and {head.status['rows']:,} were recorded",
            kind="monitor",
            owner=head.id,
            subject=head.id,
            remedy=RESTORE,
        )
