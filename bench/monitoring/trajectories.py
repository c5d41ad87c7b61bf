"""One stream through the monitor's own epoch: the evidence after every row.

Legend: N rows of the stream, C components, D channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vfmalign.monitoring.sequential import SEQUENTIAL, Component, EpochStart, MonitorOptions, prepare_epoch
from vfmalign.monitoring.sequential.thresholds import get_log_run_length_thresholds, get_log_thresholds

Array = NDArray[np.float64]

ALPHAS = (0.05, 0.01)


@dataclass(frozen=True)
class Trajectory:
    """Evidence after every row until the stream or the need for it ends.

    Attributes:
        log_evidence_NC: ln M of each component, or ln R.
        channels: D.
    """

    log_evidence_NC: Array
    channels: int

    def get_alarm(self, alpha: float) -> int | None:
        """Returns the number of the row that raises the alarm in a first epoch, from 1."""
        limit_C = _to_array(get_log_thresholds(alpha, 1, self.channels))
        is_reached_N = (self.log_evidence_NC >= limit_C).any(axis=1)
        return int(is_reached_N.argmax()) + 1 if is_reached_N.any() else None

    def list_reached(self, alpha: float) -> list[str]:
        """Returns the components whose last evidence had reached its threshold."""
        limits = get_log_thresholds(alpha, 1, self.channels)
        return [
            name.value for name, one in zip(SEQUENTIAL, self.log_evidence_NC[-1], strict=True) if one >= limits[name]
        ]

    def get_excess(self, run_length: int) -> Array:
        """Returns the largest ln R above its threshold of a run length after every row."""
        limit_C = _to_array(get_log_run_length_thresholds(run_length, self.channels))
        excess: Array = (self.log_evidence_NC - limit_C).max(axis=1)
        return excess


def run_stream(
    reference_ND: Array,
    rows_ND: Array,
    seed: int,
    *,
    until_alpha: float | None = None,
    strata: tuple[Sequence[str], Sequence[str]] | None = None,
    run_length: int | None = None,
) -> Trajectory:
    """Runs a stream in which every row has a patient of its own.

    Args:
        reference_ND: one row per patient.
        rows_ND: in the order of arrival.
        seed: of the monitor's draws.
        until_alpha: stop at the alarm of this α.
        strata: of the rows of the reference, and of the stream.
        run_length: of evidence for a run length in place of α.
    """
    patients = [str(row) for row in range(len(reference_ND))]
    of_reference, of_stream = strata or (None, [""] * len(rows_ND))
    options = MonitorOptions(seed=seed, run_length=run_length)
    epoch = prepare_epoch(options, 1, EpochStart.FIXED, reference_ND, patients, strata=of_reference)
    channels = reference_ND.shape[1]
    limit_C = np.inf if until_alpha is None else _to_array(get_log_thresholds(until_alpha, 1, channels))
    evidence = []
    for row_D, stratum in zip(rows_ND, of_stream, strict=True):
        epoch.add(row_D, "", stratum)
        evidence.append([epoch.evidence[component].log_value for component in SEQUENTIAL])
        if (np.array(evidence[-1]) >= limit_C).any():
            break
    return Trajectory(np.array(evidence), channels)


def _to_array(by_component: dict[Component, float]) -> Array:
    return np.array([by_component[component] for component in SEQUENTIAL])
