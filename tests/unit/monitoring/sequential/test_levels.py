"""False alarms and detection at fixed seeds: a fast part of `python -m bench.monitoring`.

A monitor that never alarms, or that ranks rows among those of the reference alone, fails.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from vfmalign.monitoring.sequential.block_scores import BlockRanks
from vfmalign.monitoring.sequential.ranks import SortedScores

STREAMS, ROWS, CHANNELS, ALPHA = 40, 320, 6, 0.2
MOST_FALSE_ALARMS = int(stats.binom.ppf(0.9995, STREAMS, ALPHA))


def count_alarms(make_monitor: Any, observe: Any, streams: int, rows: int, change: Any = lambda z: z) -> int:
    """Counts the streams of a distribution with heavy tails that alarm."""
    alarms = 0
    for seed in range(streams):
        monitor = make_monitor(seed=seed, channels=CHANNELS, alpha=ALPHA)
        stream = np.random.default_rng([seed, 2]).normal(size=(rows, CHANNELS))
        observe(monitor, change(stream))
        alarms += monitor.status.alarm is not None
    return alarms


def test_false_alarms_are_rare(make_monitor: Any, observe: Any) -> None:
    assert count_alarms(make_monitor, observe, STREAMS, ROWS) <= MOST_FALSE_ALARMS


def test_rows_ranked_among_the_reference_alone_alarm_too_often(
    make_monitor: Any, observe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SortedScores, "add", lambda self, score: None)
    monkeypatch.setattr(BlockRanks, "add", lambda self, z_D, scoring_sum, draws: {})
    assert count_alarms(make_monitor, observe, STREAMS, 2 * ROWS) > MOST_FALSE_ALARMS


@pytest.mark.parametrize("change", [lambda z: z + 1.0, lambda z: z * 2.0, lambda z: z * 0.3])
def test_changes_are_detected(make_monitor: Any, observe: Any, change: Any) -> None:
    assert count_alarms(make_monitor, observe, 6, 160, change) == 6
