"""What a monitor's state shows of itself, as JSON that is stored beside it: reading a monitor needs no state."""

from __future__ import annotations

import math
from typing import Any

from vfmalign.monitoring.sequential import Component, Monitor, Observation

EXTREME_ROWS = 10


def describe_status(
    monitor: Monitor, previous_peak: list[Any] | None, observations: list[Observation]
) -> dict[str, Any]:
    """Returns the status of the current epoch.

    Args:
        monitor: the monitor.
        previous_peak: the row and the evidence of each component where the largest was highest; None before a row.
        observations: what was observed since.
    """
    status, mix = monitor.status, monitor.epoch.mix
    log_evidence = status.log_martingale if monitor.options.run_length is None else status.log_run_length
    return {
        "rows": status.rows,
        "has_guarantee": status.has_guarantee,
        "blocks_are_active": status.blocks_are_active,
        "reference_rows": len(monitor.reference.patients),
        "components": {
            component.value: [finite_or_none(log_evidence[component]), status.log_threshold[component]]
            for component in Component
        },
        "mix": {
            "log_evidence": status.mix_log_evidence,
            "log_threshold": status.mix_log_threshold,
            "rows": dict(mix.stream),
            "reference_rows": dict(mix.calibration),
        },
        "extreme_rows": [[one.row, one.observation, one.p_value] for one in status.extreme_rows[:EXTREME_ROWS]],
        "peak": _find_peak(previous_peak, observations),
    }


def _find_peak(peak: list[Any] | None, observations: list[Observation]) -> list[Any] | None:
    for one in observations:
        if one.p_value is None:
            continue
        values = [finite_or_none(one.log_evidence[component]) for component in Component]
        if peak is None or _get_largest(values) > _get_largest(peak[1:]):
            peak = [one.row, *values]
    return peak


def _get_largest(values: list[float | None]) -> float:
    return max((value for value in values if value is not None), default=-math.inf)


def finite_or_none(value: float) -> float | None:
    """Returns a value that JSON can hold."""
    return value if math.isfinite(value) else None
