"""Thresholds at which evidence raises an alarm.

The probability of a false alarm has a bound for each component. The bound for all components is the sum of these
bounds. The same applies to channels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from vfmalign.monitoring.sequential.records import Component

SHARES = {
    Component.ROWS: 0.4,
    Component.BLOCKS_OF_4: 0.25,
    Component.BLOCKS_OF_16: 0.25,
    Component.CHANNELS: 0.1,
}
"""Share of each component of the α of an epoch. Channels have the smallest share, because they are the first to react
to a weak dependence between rows, such as a season. This share raises their threshold of ln M by ln 10 = 2.3."""
FIRST_EPOCH_SHARE = 0.8
FIRST_PATIENTS_SHARE = 0.1
"""Share of the monitor's α for the test of its first patients, taken from the share of the first epoch."""


def get_epoch_share(epoch: int) -> float:
    """Returns the share of α that an epoch uses. Epochs are counted from 1, and the shares of all epochs add up to 1.

    The share of the first epoch is 0.8, because most monitors have only one epoch. The share of epoch k > 1 is 0.2 /
    (k·(k − 1)). An epoch whose share is 0.001 needs e^6.9 times as much evidence as an epoch that uses all of α. If the
    drift is clear, a few more rows provide the additional evidence.
    """
    return FIRST_EPOCH_SHARE if epoch == 1 else (1.0 - FIRST_EPOCH_SHARE) / (epoch * (epoch - 1))


def get_log_thresholds(
    alpha: float, epoch: int, channels: int, *, compares_first: bool = False
) -> dict[Component, float]:
    """Returns each component's threshold of ln M: ln(1 / (share · α_k)), or ln(D / (share · α_k)) for channels.

    Args:
        alpha: α of the monitor.
        epoch: number k of the epoch, starting at 1.
        channels: number D of channels. Each has its own martingale.
        compares_first: whether the epoch tests its first patients. Only the first epoch can test its first patients.
    """
    if not compares_first:
        return _divide(1.0 / (alpha * get_epoch_share(epoch)), channels)
    first = {Component.FIRST_PATIENTS: -math.log(alpha * FIRST_PATIENTS_SHARE)}
    return _divide(1.0 / (alpha * (get_epoch_share(epoch) - FIRST_PATIENTS_SHARE)), channels) | first


def get_log_run_length_thresholds(run_length: int, channels: int) -> dict[Component, float]:
    """Returns each component's threshold of ln R.

    With these thresholds, P(alarm within T rows) ≤ T / A without drift.
    """
    return _divide(float(run_length), channels)


def find_strongest(
    log_evidence: Mapping[Component, float], log_threshold: Mapping[Component, float]
) -> tuple[Component, float]:
    """Returns the component whose evidence is highest relative to its threshold, and ln (evidence / threshold)."""
    excess = {component: value - log_threshold[component] for component, value in log_evidence.items()}
    component = max(excess, key=lambda name: excess[name])
    return component, excess[component]


def _divide(limit: float, channels: int) -> dict[Component, float]:
    return {
        component: math.log(limit * (channels if component is Component.CHANNELS else 1) / share)
        for component, share in SHARES.items()
    }
