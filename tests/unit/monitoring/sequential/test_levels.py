"""False alarms and detection at fixed seeds: a fast part of `python -m bench.monitoring`.

A monitor that never alarms, or that ranks rows among those of the reference alone, fails; so does one that takes
sessions of a scanner for a change.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from vfmalign.monitoring.sequential import Alarm, Monitor, MonitorOptions, block_scores
from vfmalign.monitoring.sequential.block_scores import BlockRanks
from vfmalign.monitoring.sequential.ranks import SortedScores
from vfmalign.monitoring.sequential.strata import Stratum

STREAMS, ROWS, CHANNELS, ALPHA = 40, 320, 6, 0.2
MOST_FALSE_ALARMS = int(stats.binom.ppf(0.9995, STREAMS, ALPHA))


@pytest.fixture(autouse=True)
def few_subsets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks blocks among a tenth of the subsets, which takes half of the time and keeps the level."""
    monkeypatch.setattr(block_scores, "SUBSETS", 99)


def count_alarms(make_monitor: Any, observe: Any, streams: int, rows: int, change: Any = lambda z: z) -> int:
    """Counts the streams of a Gaussian that alarm, until there are too many for a monitor that keeps its level."""
    alarms = 0
    for seed in range(streams):
        monitor = make_monitor(seed=seed, channels=CHANNELS, alpha=ALPHA)
        stream = np.random.default_rng([seed, 2]).normal(size=(rows, CHANNELS))
        for start in range(0, rows, 80):
            observe(monitor, change(stream)[start : start + 80], start)
            if monitor.status.alarm is not None:
                alarms += 1
                break
        if alarms > MOST_FALSE_ALARMS:
            break
    return alarms


def test_false_alarms_are_rare(make_monitor: Any, observe: Any) -> None:
    assert count_alarms(make_monitor, observe, STREAMS, ROWS) <= MOST_FALSE_ALARMS


def test_rows_ranked_among_the_reference_alone_alarm_too_often(
    make_monitor: Any, observe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SortedScores, "add", lambda self, score: None)
    monkeypatch.setattr(BlockRanks, "add", lambda self, z_D, scoring_sum, draws, number: {})
    monkeypatch.setattr(Stratum, "rank_channels", lambda self, z_D, draws, number: (np.zeros(1), np.ones(1)))
    assert count_alarms(make_monitor, observe, STREAMS, 2 * ROWS) > MOST_FALSE_ALARMS


@pytest.mark.parametrize("change", [lambda z: z + 1.0, lambda z: z * 2.0, lambda z: z * 0.3])
def test_changes_are_detected(make_monitor: Any, observe: Any, change: Any) -> None:
    assert count_alarms(make_monitor, observe, 3, 160, change) == 3


def run_sessions(seed: int, observe: Any, *, has_strata: bool, rows: int = 400, change: float = 0.0) -> Alarm | None:
    """Returns the alarm of a stream in runs of 8 rows of one of three scanners that differ by 0.5 SD.

    The reference is the beginning of the same process; scanner 1 changes by `change` SD after half of the stream.
    """
    rng, reference = np.random.default_rng([seed, 3]), 120
    session_N = rng.integers(0, 3, (reference + rows) // 8)
    scanner_N = session_N[np.arange(reference + rows) // 8]
    all_ND = rng.normal(size=(reference + rows, CHANNELS)) + rng.normal(size=(3, CHANNELS))[scanner_N] * 0.5
    all_ND[reference + rows // 2 :][scanner_N[reference + rows // 2 :] == 1] += change
    strata = [f"scanner-{scanner}" if has_strata else "" for scanner in scanner_N]
    patients = [f"reference-{row}" for row in range(reference)]
    options = MonitorOptions(alpha=0.05, seed=seed)
    monitor = Monitor(options, all_ND[:reference], patients, strata[:reference])
    observe(monitor, all_ND[reference:], strata=strata[reference:])
    return monitor.status.alarm


def test_sessions_of_scanners_raise_no_alarm_within_strata(observe: Any) -> None:
    assert [run_sessions(seed, observe, has_strata=True) for seed in range(4)] == [None] * 4


def test_blocks_of_neighbours_take_sessions_for_a_change(observe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_scores, "SPACINGS", dict.fromkeys(block_scores.SPACINGS, 1))
    assert sum(run_sessions(seed, observe, has_strata=False) is not None for seed in range(4)) >= 3


def test_a_change_of_one_scanner_among_sessions_is_found(observe: Any) -> None:
    alarms = [run_sessions(seed, observe, has_strata=True, change=1.5) for seed in range(4)]
    assert all(alarm is not None and alarm.row > 200 for alarm in alarms)
