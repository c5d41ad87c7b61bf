"""Records observations and updates the state of their monitor.

The database is the log. Each call is one transaction. The transaction locks the row of the monitor and replays the
recorded observations that the state in memory lacks. The transaction then adds the new observations and records their
effects. Because each process replays the observations that other processes recorded, any process can serve any call. If
a process is killed, only unrecorded observations are lost. The caller sends them again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy.orm import Session

from vfmalign.client.messages.monitors import FeatureOrigin
from vfmalign.core.domain.errors import PreconditionFailed, Unavailable
from vfmalign.core.runtime import logs
from vfmalign.core.runtime.work_context import current_work
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.database.database import Database
from vfmalign.database.tables import now
from vfmalign.monitoring import metrics
from vfmalign.monitoring.sequential import (
    ChannelShift,
    Observation,
    get_channel_shifts,
)
from vfmalign.monitoring.service.log import (
    RESULT_COLUMNS,
    Columns,
    Head,
    add_evidence,
    count,
    get_day,
    get_label,
    make_input,
    make_observation,
    make_results,
    read_head,
    write_head,
)
from vfmalign.monitoring.service.observations import IncomingObservation
from vfmalign.monitoring.service.replay import StateReader
from vfmalign.monitoring.service.repository import PAUSED, MonitorPins, get_epoch
from vfmalign.monitoring.service.snapshots import SnapshotWriter
from vfmalign.monitoring.service.states import Key, State, States
from vfmalign.monitoring.service.status import describe_status
from vfmalign.monitoring.tables import INPUTS, OBSERVATIONS

CHUNK_ROWS = 64
"""Maximum number of observations per transaction. It limits how long a transaction locks the monitor."""
CHUNK_BYTES = 2**34
"""Limit of observations × bytes of the state, which each of them reads: about one second of one core."""
_ORIGIN = {
    "checkpoint_sha256": "other weights",
    "preprocessing_sha256": "another preprocessing",
    "input_transform": "another input transform",
}
_SELECT_RECORDED = sa.select(*(OBSERVATIONS.c[name] for name in RESULT_COLUMNS)).where(
    OBSERVATIONS.c.tenant == sa.bindparam("tenant"),
    OBSERVATIONS.c.monitor_id == sa.bindparam("monitor_id"),
    OBSERVATIONS.c.observation_id.in_(sa.bindparam("ids", expanding=True)),
)
_log = logs.get(__name__)


class Outdated(Unavailable):
    """The monitor changed after the observations were checked.

    The observations must be checked against its new properties.
    """

    reason = "MONITOR_CHANGED"


class EvidenceKeeper:
    """Evidence of the monitors of a tenant.

    Args:
        database: database of the tenant's monitors and observations.
        store: object store of the monitors' snapshots.
        states: cached states of all tenants.
        snapshot_rows: number of observations after which a state is stored.

    Attributes:
        states: the cached states.
    """

    def __init__(self, database: Database, store: ObjectStore, states: States, snapshot_rows: int) -> None:
        self._database, self.states = database, states
        self._reader = StateReader(database, store, states)
        self._snapshots = SnapshotWriter(database, store, states, snapshot_rows)

    def record(
        self, monitor_id: str, pins: MonitorPins, origin: FeatureOrigin, observations: Sequence[IncomingObservation]
    ) -> list[Columns]:
        """Records observations in the given order. Returns one result per observation; see `make_results`.

        Args:
            monitor_id: the monitor.
            pins: properties of the monitor that the observations were checked against.
            origin: origin of their features.
            observations: observations that were checked for this monitor.

        Raises:
            NotFound: the monitor was deleted.
            PreconditionFailed: the monitor observes features of another origin, or its state is outdated
                (`StateReader.warm`).
            Outdated: the current properties of the monitor differ from `pins`.
            Cancelled, DeadlineExceeded: the caller cancelled the call, or its deadline has passed.
            Unavailable, DataLoss: see `StateReader.warm`. In this case, some of the observations may have been
                recorded.
        """
        results: list[Columns] = []
        while len(results) < len(observations):
            current_work.get().checkpoint()  # stop if the caller has left
            rest = observations[len(results) : len(results) + CHUNK_ROWS]
            results += self._record_first(monitor_id, pins, origin, rest)
        return results

    def is_warm(self, monitor_id: str, uid: str) -> bool:
        """Returns whether the state of a monitor is in memory.

        If the state is in memory, recording does not wait for the store.
        """
        return self.states.get((self._database.tenant, monitor_id, uid)) is not None

    def get_channel_shifts(self, monitor_id: str, rows_NC: np.ndarray[Any, Any]) -> list[ChannelShift]:
        """Returns the shifts of the channels of the layer that raises the alarm."""
        with self.states.hold(self._database.tenant, monitor_id):
            reference = self._reader.warm(monitor_id).monitor.reference
        return get_channel_shifts(reference, rows_NC)

    def forget(self, monitor_id: str, uid: str) -> None:
        """Forgets a deleted monitor."""
        tenant = self._database.tenant
        self.states.drop((tenant, monitor_id, uid))
        metrics.forget_observations(tenant, monitor_id)

    # --- recording ---

    def _record_first(
        self, monitor_id: str, pins: MonitorPins, origin: FeatureOrigin, observations: Sequence[IncomingObservation]
    ) -> list[Columns]:
        """Records the first observations, up to the maximum number per transaction."""
        key = self._database.tenant, monitor_id, pins.uid
        with self.states.hold(self._database.tenant, monitor_id):
            state = self.states.get(key) or self._reader.warm(monitor_id)
            observations = observations[: max(1, CHUNK_BYTES // state.size_bytes)]
            while (done := self._record_with(state, key, pins, origin, observations)) is None:
                state = self._reader.warm(monitor_id)
        head, results = done
        for result in results:
            metrics.count_observation(key[0], monitor_id, get_label(result))
        self._snapshots.store_if_due(key, head.sequence - head.snapshot["sequence"])
        return results

    def _record_with(
        self,
        state: State,
        key: Key,
        pins: MonitorPins,
        origin: FeatureOrigin,
        observations: Sequence[IncomingObservation],
    ) -> tuple[Head, list[Columns]] | None:
        """Records observations in one transaction; returns None if the state must be read again first."""
        with self._database.session() as session:
            head = read_head(session, key[0], key[1], lock=True)
            _check_pins(head, pins, origin)
            recorded = _find_recorded(session, head, [one.id for one in observations])
            self.states.drop(key)  # the state changes before the change is recorded
            if not self._reader.catch_up(session, head, state):
                return None
            results = self._add(session, head, state, observations, recorded)
            write_head(session, head)
        self.states.put(key, state)
        return head, results

    def _add(
        self,
        session: Session,
        head: Head,
        state: State,
        observations: Sequence[IncomingObservation],
        recorded: dict[str, Columns],
    ) -> list[Columns]:
        """Adds new observations to the state and records their effects; returns the results of all."""
        new = {one.id: one for one in reversed(observations) if one.id not in recorded}
        fresh = [one for one in observations if new.get(one.id) is one]
        received = now()
        paused = head.state == PAUSED
        layer = next(iter(head.layers))
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
        values = [make_observation(head, one, received) for one in fresh]
        for value, observation in zip(values, taken, strict=False):
            add_evidence(value, observation)
        state.sequence = head.sequence
        self._record_alarm(session, state, values)
        if values:
            session.execute(sa.insert(OBSERVATIONS), values)
        if taken:
            session.execute(sa.insert(INPUTS), [make_input(*one) for one in zip(values, fresh, days, strict=True)])
            head.status = describe_status(state.monitor, head.status["peak"], taken)
        results = make_results(observations, fresh, values, recorded)
        count(head, results, values)
        if fresh:
            head.last_observed_at = received
            acquired = fresh[-1].acquired_at
            head.lag_s = None if acquired is None else max(0.0, (received - acquired).total_seconds())
        state.received_at = head.last_observed_at
        return results

    def _record_alarm(self, session: Session, state: State, values: Sequence[Columns]) -> None:
        alarm = state.monitor.epoch.alarm
        for value in values:
            if not value["raised_alarm"] or alarm is None:
                continue
            epoch = get_epoch(session, value["monitor_id"], value["epoch"])
            if epoch.alarm is not None:  # a replay with other last bits may have missed it
                value["raised_alarm"] = False
                continue
            epoch.alarm = {
                "row": alarm.row,
                "observation_id": alarm.observation,
                "components": [component.value for component in alarm.components],
                "raise_time": value["received_at"].isoformat(),
            }
            _log.warning("drift_alarm", monitor=value["monitor_id"], epoch=value["epoch"], row=alarm.row)


def _find_recorded(session: Session, head: Head, ids: list[str]) -> dict[str, Columns]:
    """Maps the ids of observations that are already recorded to their columns."""
    names = {"tenant": head.tenant, "monitor_id": head.id, "ids": ids}
    return {one["observation_id"]: dict(one) for one in session.execute(_SELECT_RECORDED, names).mappings()}


def _check_pins(head: Head, pins: MonitorPins, origin: FeatureOrigin) -> None:
    if head.pins != pins:
        raise Outdated(
            "the monitor changed while the observations were read", subject=head.id, remedy="send them again"
        )
    pinned = FeatureOrigin.model_validate(head.origin)
    if differing := [name for field, name in _ORIGIN.items() if getattr(pinned, field) != getattr(origin, field)]:
        raise PreconditionFailed(
            f"the monitor watches features of {' and '.join(differing)}",
            subject=head.id,
            remedy="extract with the model of the monitor, or give the monitor a reference of the new model",
            reason="WRONG_ORIGIN",
        )
