"""Rows of the log of observations, and what a call is answered from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np
from safetensors.numpy import save

from vfmalign.monitoring.sequential import Component, Observation
from vfmalign.monitoring.service.observations import FUTURE, IncomingObservation
from vfmalign.monitoring.service.repository import PAUSED
from vfmalign.monitoring.service.status import finite_or_none
from vfmalign.monitoring.tables import MonitorRow

LOG_COLUMNS = ("log_rows", "log_blocks_4", "log_blocks_16")
"""In the order of `Component`."""
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
"""What a duplicate is answered from."""
CONFLICT = "conflict"

Columns = dict[str, Any]


def make_observation(row: MonitorRow, one: IncomingObservation, received: datetime) -> Columns:
    """Returns the columns of an observation that has not entered, and moves the clocks of its monitor."""
    row.sequence += 1
    acquired, latest = one.acquired_at, row.last_acquired_at
    future = acquired is not None and acquired > received + FUTURE
    late = acquired is not None and latest is not None and acquired < latest
    if acquired is not None and not future and not late:
        row.last_acquired_at = acquired
    return {
        "tenant": row.tenant,
        "monitor_id": row.id,
        "sequence": row.sequence,
        "observation_id": one.id,
        "content_digest": one.digest,
        "outcome": PAUSED,
        "epoch": row.epoch,
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
    """Returns the day of an observation, which a clock that is ahead does not decide."""
    acquired = one.acquired_at
    return (received if acquired is None or acquired > received + FUTURE else acquired).date().toordinal()


def add_evidence(value: Columns, observation: Observation) -> None:
    """Adds what an observation did to the columns of its row."""
    value |= {
        "outcome": observation.outcome.value,
        "row": observation.row,
        "p_value": observation.p_value,
        "raised_alarm": observation.raised_alarm,
    }
    for name, component in zip(LOG_COLUMNS, Component, strict=True):
        value[name] = finite_or_none(observation.log_evidence[component])


def make_input(value: Columns, one: IncomingObservation, day: int) -> Columns:
    """Returns the columns of what an observation consisted of."""
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
    """Returns what each observation of a call did: the columns of its row, and whether it is a duplicate."""
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
    """Returns what became of an observation, as it is counted."""
    return "duplicate" if result["duplicate"] else str(result["outcome"])


def count(row: MonitorRow, results: Sequence[Columns], values: Sequence[Columns]) -> None:
    """Adds to the numbers of observations by what became of them."""
    counts = Counter(row.counts)
    counts.update(map(get_label, results))
    counts["late"] += sum(value["late"] for value in values)
    counts["future"] += sum(value["future"] for value in values)
    row.counts = {name: count for name, count in counts.items() if count}
