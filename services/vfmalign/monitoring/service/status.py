"""Status of a monitor's state. The status is stored as JSON, so that reading a monitor does not load the state."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from vfmalign.monitoring.sequential import Component, Monitor, Observation
from vfmalign.monitoring.sequential.thresholds import find_strongest

EXTREME_ROWS = 10


def describe_status(
    monitor: Monitor, previous_peak: dict[str, Any] | None, observations: list[Observation]
) -> dict[str, Any]:
    """Returns the status of the current epoch.

    Args:
        monitor: the monitor.
        previous_peak: previous maximum of the evidence relative to its threshold (`EvidencePeak`); None before the
            first row.
        observations: observations since then.
    """
    status = monitor.status
    return {
        "rows": status.rows,
        "has_guarantee": status.has_guarantee,
        "blocks_are_active": status.blocks_are_active,
        "reference_rows": len(monitor.reference.patients),
        "components": {
            component.value: [finite_or_none(value), status.log_threshold[component]]
            for component, value in status.log_evidence.items()
        },
        "mix": {"rows": status.strata, "reference_rows": status.reference_strata},
        "extreme_rows": [[one.row, one.observation, one.p_value] for one in status.extreme_rows[:EXTREME_ROWS]],
        "peak": _find_peak(previous_peak, observations, status.log_threshold),
    }


def _find_peak(
    peak: dict[str, Any] | None, observations: list[Observation], log_threshold: Mapping[Component, float]
) -> dict[str, Any] | None:
    for one in observations:
        if one.p_value is None:
            continue
        component, excess = find_strongest(one.log_evidence, log_threshold)
        value = one.log_evidence[component]
        if peak is None or excess > peak["log_evidence"] - log_threshold[Component(peak["component"])]:
            peak = {"row": one.row, "component": component.value, "log_evidence": value}
    return peak


def finite_or_none(value: float) -> float | None:
    """Returns the value if it is finite. Otherwise returns None, because JSON has no infinity or NaN."""
    return value if math.isfinite(value) else None
