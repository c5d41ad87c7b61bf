"""One stream through the monitor's own epoch: the evidence after every row.

Legend: N rows of the stream, C components, D channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vfmalign.monitoring.sequential import Component, EpochStart, prepare_reference
from vfmalign.monitoring.sequential.draws import Draws
from vfmalign.monitoring.sequential.epoch import Epoch
from vfmalign.monitoring.sequential.thresholds import CALIBRATED_THRESHOLDS, get_log_martingale_threshold

Array = NDArray[np.float64]

ALPHAS = (0.05, 0.01)


@dataclass(frozen=True)
class Trajectory:
    """Evidence after every row until the stream or the need for it ends.

    Attributes:
        log_martingale_NC: ln M.
        log_run_length_NC: ln R.
    """

    log_martingale_NC: Array
    log_run_length_NC: Array

    def get_alarm(self, alpha: float) -> int | None:
        """Returns the number of the row that raises the alarm in a first epoch, from 1."""
        return _get_first(self.log_martingale_NC.max(axis=1) >= get_log_martingale_threshold(alpha, 1))

    def get_excess(self) -> Array:
        """Returns the largest ln R above its calibrated threshold after every row."""
        thresholds = np.array([CALIBRATED_THRESHOLDS[component] for component in Component])
        excess: Array = (self.log_run_length_NC - thresholds).max(axis=1)
        return excess


def run_stream(reference_ND: Array, rows_ND: Array, seed: int, *, until_alpha: float | None = None) -> Trajectory:
    """Runs a stream in which every row has a patient of its own.

    Args:
        reference_ND: one row per patient.
        rows_ND: in the order of arrival.
        seed: of the monitor's draws.
        until_alpha: stop at the alarm of this α.
    """
    draws = Draws(seed, 1)
    reference = prepare_reference(reference_ND, [str(row) for row in range(len(reference_ND))], draws)
    epoch = Epoch(draws, EpochStart.FIXED, reference)
    limit = np.inf if until_alpha is None else get_log_martingale_threshold(until_alpha, 1)
    martingales, run_lengths = [], []
    for row_D in rows_ND:
        epoch.add(row_D, "", "")
        evidence = [epoch.evidence[component] for component in Component]
        martingales.append([one.martingale.log_value for one in evidence])
        run_lengths.append([one.run_length.log_value for one in evidence])
        if max(martingales[-1]) >= limit:
            break
    return Trajectory(np.array(martingales), np.array(run_lengths))


def _get_first(is_reached_N: NDArray[np.bool_]) -> int | None:
    return int(is_reached_N.argmax()) + 1 if is_reached_N.any() else None
