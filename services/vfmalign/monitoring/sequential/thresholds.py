"""When evidence suffices for an alarm.

The components are bounded one by one, and their union by the sum of the bounds; so are the channels.
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
"""Share of each component of the α of an epoch. Channels have the smallest: they see a weak dependence between rows
first, such as a season, and need 2.3 more in ln M than rows would with their share."""
FIRST_EPOCH_SHARE = 0.8
FIRST_PATIENTS_SHARE = 0.1
"""Share of the monitor's α that the test of its first patients takes from the first epoch's."""


def get_epoch_share(epoch: int) -> float:
    """Returns the share of α that epoch 1, 2, … may spend; the shares of all epochs sum to 1.

    The first takes 0.8, because most monitors have only one, and epoch k > 1 takes 0.2 / (k·(k − 1)). An epoch with a
    share of 0.001 needs e^6.9 times the evidence of α as a whole: a few more rows of a clear drift.
    """
    return FIRST_EPOCH_SHARE if epoch == 1 else (1.0 - FIRST_EPOCH_SHARE) / (epoch * (epoch - 1))


def get_log_thresholds(
    alpha: float, epoch: int, channels: int, *, compares_first: bool = False
) -> dict[Component, float]:
    """Returns the ln M of each component that raises the alarm: ln(1 / (share · α_k)), and ln(D / (share · α_k)).

    Args:
        alpha: of the monitor.
        epoch: its number k, from 1.
        channels: D, each of which has a martingale of its own.
        compares_first: whether the epoch, which is the first one, has a test of its first patients.
    """
    if not compares_first:
        return _divide(1.0 / (alpha * get_epoch_share(epoch)), channels)
    first = {Component.FIRST_PATIENTS: -math.log(alpha * FIRST_PATIENTS_SHARE)}
    return _divide(1.0 / (alpha * (get_epoch_share(epoch) - FIRST_PATIENTS_SHARE)), channels) | first


def get_log_run_length_thresholds(run_length: int, channels: int) -> dict[Component, float]:
    """Returns the ln R of each component that raises the alarm: P(alarm within T rows) ≤ T / A without drift."""
    return _divide(float(run_length), channels)


def find_strongest(
    log_evidence: Mapping[Component, float], log_threshold: Mapping[Component, float]
) -> tuple[Component, float]:
    """Returns the component whose evidence is highest beside its threshold, and ln of their ratio."""
    excess = {component: value - log_threshold[component] for component, value in log_evidence.items()}
    component = max(excess, key=lambda name: excess[name])
    return component, excess[component]


def _divide(limit: float, channels: int) -> dict[Component, float]:
    return {
        component: math.log(limit * (channels if component is Component.CHANNELS else 1) / share)
        for component, share in SHARES.items()
    }
