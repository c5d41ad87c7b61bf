"""When evidence suffices for an alarm.

The three components (rows, blocks of 4 and of 16) are bounded one by one, and their union by the sum of the bounds.
"""

from __future__ import annotations

import math

from vfmalign.monitoring.sequential.records import Component

COMPONENTS = len(Component)
CALIBRATED_THRESHOLDS = {Component.ROWS: 7.09, Component.BLOCKS_OF_4: 7.20, Component.BLOCKS_OF_16: 6.80}
"""ln R at which the mean run length without drift was measured to be about 1,000 rows; no theorem."""
FIRST_EPOCH_SHARE = 0.8


def get_epoch_share(epoch: int) -> float:
    """Returns the share of α that epoch 1, 2, … may spend; the shares of all epochs sum to 1.

    The first takes 0.8, because most monitors have only one, and epoch k > 1 takes 0.2 / (k·(k − 1)). An epoch with a
    share of 0.001 needs e^6.9 times the evidence of α as a whole: a few more rows of a clear drift.
    """
    return FIRST_EPOCH_SHARE if epoch == 1 else (1.0 - FIRST_EPOCH_SHARE) / (epoch * (epoch - 1))


def get_log_martingale_threshold(alpha: float, epoch: int) -> float:
    """Returns ln(3 / α_k), which a component's martingale reaches in epoch k with probability α_k / 3 without drift."""
    return math.log(COMPONENTS / (alpha * get_epoch_share(epoch)))


def get_log_run_length_thresholds(run_length: int, *, calibrated: bool) -> dict[Component, float]:
    """Returns the ln R of each component that raises the alarm.

    Guaranteed: ln(3·A), so that P(alarm within T rows) ≤ T / A without drift. Calibrated: as measured, for A = 1,000.
    """
    if calibrated:
        return CALIBRATED_THRESHOLDS
    return dict.fromkeys(Component, math.log(COMPONENTS * run_length))


def get_log_mix_threshold(alpha: float, epoch: int, strata: int) -> float:
    """Returns ln(K / α_k) of the test of the mix of K strata, whose α is its own."""
    return math.log(max(1, strata) / (alpha * get_epoch_share(epoch)))
