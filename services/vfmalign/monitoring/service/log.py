"""The log of a monitor's observations: its head, its rows, and the results of calls that record observations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

import numpy as np
import sqlalchemy as sa
from safetensors.numpy import save
from sqlalchemy.orm import Session

from vfmalign.monitoring.sequential import SEQUENTIAL, Observation
from vfmalign.monitoring.service.observations import FUTURE, IncomingObservation
from vfmalign.monitoring.service.repository import DELETING, PAUSED, MonitorPins, make_unknown
from vfmalign.monitoring.service.snapshots import count_erasures
from vfmalign.monitoring.service.states import Key
from vfmalign.monitoring.service.status import finite_or_none
from vfmalign.monitoring.tables import MONITORS

LOG_COLUMNS = ("log_rows", "log_blocks_4", "log_blocks_16", "log_channels")
"""Columns of the evidence, in the order of `SEQUENTIAL`."""
RESULT_COLUMNS = (
    "observation_id",
    "outcome",
    "row",
    "epoch",
    "p_value",
    "late",
    "raised_alarm",
    "content_digest",
)
"""Columns from which a duplicate is answered."""
CONFLICT = "conflict"

Columns = dict[str, Any]


@dataclass
class Head:
    """Head of a monitor's log, read from the monitor's row; see `MonitorRow` for the attributes.

    Every call that records observations reads and writes the head. With this class, reading and writing take half as
    long as with an ORM object.
    """

    tenant: str
    id: str
    uid: str
    state: str
    spec: dict[str, Any]
    origin: dict[str, Any]
    layers: dict[str, int]
    epoch: int
    sequence: int
    snapshot: dict[str, Any]
    earlier_snapshot: dict[str, Any] | None
    status: dict[str, Any]
    counts: dict[str, int]
    last_observed_at: datetime | None
    last_acquired_at: datetime | None
    lag_s: float | None

    @property
    def key(self) -> Key:
        """Key of the monitor's state."""
        return self.tenant, self.id, self.uid

    @property
    def erasures(self) -> int:
        """Number of erasures that the states include; see `count_erasures`."""
        return count_erasures(self.snapshot["key"])

    @property
    def pins(self) -> MonitorPins:
        """Properties of the monitor against which observations are checked."""
        return MonitorPins(self.uid, self.layers, self.spec["stratum"])


_MOVED = ("sequence", "status", "counts", "last_observed_at", "last_acquired_at", "lag_s")
"""Columns that recording changes."""
_SELECT = sa.select(*(MONITORS.c[field.name] for field in fields(Head))).where(
    MONITORS.c.tenant == sa.bindparam("tenant"),
    MONITORS.c.id == sa.bindparam("monitor_id"),
    MONITORS.c.state != DELETING,
)
_SELECT_LOCKED = _SELECT.with_for_update()
_UPDATE = (
    sa.update(MONITORS)
    .where(MONITORS.c.tenant == sa.bindparam("of_tenant"), MONITORS.c.id == sa.bindparam("of_id"))
    .values({name: sa.bindparam(name) for name in _MOVED})
)


def read_head(session: Session, tenant: str, monitor_id: str, *, lock: bool = False) -> Head:
    """Returns the head of the log of a monitor.

    Raises:
        NotFound: the id is unknown, or the monitor is being deleted.
    """
    names = {"tenant": tenant, "monitor_id": monitor_id}
    row = session.execute(_SELECT_LOCKED if lock else _SELECT, names).one_or_none()
    if row is None:
        raise make_unknown(monitor_id)
    return Head(*row)


def write_head(session: Session, head: Head) -> None:
    """Writes the columns of the head that change when observations are recorded."""
    moved = {name: getattr(head, name) for name in _MOVED}
    session.execute(_UPDATE, {"of_tenant": head.tenant, "of_id": head.id, **moved})


def make_observation(head: Head, one: IncomingObservation, received: datetime) -> Columns:
    """Returns the columns of a new observation, before the evidence includes it. Also updates the times in the head."""
    head.sequence += 1
    acquired, latest = one.acquired_at, head.last_acquired_at
    future = acquired is not None and acquired > received + FUTURE
    late = acquired is not None and latest is not None and acquired < latest
    if acquired is not None and not future and not late:
        head.last_acquired_at = acquired
    return {
        "tenant": head.tenant,
        "monitor_id": head.id,
        "sequence": head.sequence,
        "observation_id": one.id,
        "content_digest": one.digest,
        "outcome": PAUSED,
        "epoch": head.epoch,
        "row": 0,
        "p_value": None,
        "late": late,
        "future": future,
        "raised_alarm": False,
        "received_at": received,
        "acquired_at": acquired,
        **dict.fromkeys(LOG_COLUMNS),
    }


def get_day(one: IncomingObservation, received: datetime) -> int:
    """Returns the day on which an observation was acquired.

    If that day is in the future, returns the day of arrival.
    """
    acquired = one.acquired_at
    return (received if acquired is None or acquired > received + FUTURE else acquired).date().toordinal()


def add_evidence(value: Columns, observation: Observation) -> None:
    """Records the effect of an observation in the columns of its row."""
    value |= {
        "outcome": observation.outcome.value,
        "row": observation.row,
        "p_value": observation.p_value,
        "raised_alarm": observation.raised_alarm,
    }
    for name, component in zip(LOG_COLUMNS, SEQUENTIAL, strict=True):
        value[name] = finite_or_none(observation.log_evidence[component])


def make_input(value: Columns, one: IncomingObservation, day: int) -> Columns:
    """Returns the columns that contain the input of an observation."""
    names = ("tenant", "monitor_id", "sequence", "epoch", "row")
    return {name: value[name] for name in names} | {
        "patient": one.patient,
        "stratum": one.stratum,
        "day": day,
        "features": save({name: np.ascontiguousarray(features_C) for name, features_C in one.layers.items()}),
    }


def make_results(
    observations: Sequence[IncomingObservation],
    fresh: Sequence[IncomingObservation],
    values: Sequence[Columns],
    recorded: dict[str, Columns],
) -> list[Columns]:
    """Returns one result per observation of a call.

    A result contains the columns of its row, and whether the observation is a duplicate.
    """
    rows = recorded | {one.id: value for one, value in zip(fresh, values, strict=True)}
    first = {id(one) for one in fresh}
    results = []
    for one in observations:
        row = rows[one.id]
        if row["content_digest"] != one.digest:
            row = row | {"outcome": CONFLICT, "row": 0, "p_value": None, "late": False, "raised_alarm": False}
        duplicate = id(one) not in first and row["outcome"] != CONFLICT
        results.append(row | {"observation_id": one.id, "duplicate": duplicate})
    return results


def get_label(result: Columns) -> str:
    """Returns the value of the label `outcome` that an observation is counted under."""
    return "duplicate" if result["duplicate"] else str(result["outcome"])


def count(head: Head, results: Sequence[Columns], values: Sequence[Columns]) -> None:
    """Adds observations to the numbers of observations per outcome."""
    counts = Counter(head.counts)
    counts.update(map(get_label, results))
    counts["late"] += sum(value["late"] for value in values)
    counts["future"] += sum(value["future"] for value in values)
    head.counts = {name: count for name, count in counts.items() if count}
