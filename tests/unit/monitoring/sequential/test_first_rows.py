"""The test of the first patients: its value by hand, its level with sessions of scanners, and its alarm."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from vfmalign.monitoring.sequential import Component, EpochStart, Monitor, MonitorOptions, block_scores, first_rows
from vfmalign.monitoring.sequential.draws import Draws
from vfmalign.monitoring.sequential.epoch import Epoch
from vfmalign.monitoring.sequential.references import Reference
from vfmalign.monitoring.sequential.row_scores import RowScorer

CHANNELS = 8


def make_epoch(calibration: np.ndarray, strata: tuple[str, ...]) -> Epoch:
    """Returns an epoch with a given calibration set, standardised by the identity."""
    channels = calibration.shape[1]
    scoring = np.random.default_rng(3).normal(size=(20, channels))
    scorer = RowScorer(np.zeros(channels), np.ones(channels), scoring, 2.0 * channels)
    return Epoch(Draws(5, 1), EpochStart.FIXED, Reference(scorer, calibration, frozenset(), strata))


def compute_all_p_values(epoch: Epoch, stream: np.ndarray, strata: str) -> float:
    """Returns the share of all labellings within strata whose statistic, written out, is at least the observed one."""
    rows = np.concatenate([epoch.reference.calibration_CD, stream])
    names = np.array([*epoch.reference.strata, *strata])
    label = np.repeat([0.0, 1.0], [len(rows) - len(stream), len(stream)])
    kernel = np.exp(-((rows[:, None] - rows[None]) ** 2).sum(axis=2) / epoch.reference.scorer.bandwidth)

    def get_statistic(labels: np.ndarray) -> float:
        weights = np.array([one - labels[names == name].mean() for one, name in zip(labels, names, strict=True)])
        return float(weights @ kernel @ weights)

    def label_all(left: list[str]) -> Any:
        if not left:
            yield np.zeros(len(rows))
            return
        places = np.flatnonzero(names == left[0])
        for rest in label_all(left[1:]):
            for chosen in combinations(places, int(label[places].sum())):
                labels = rest.copy()
                labels[list(chosen)] = 1.0
                yield labels

    observed = get_statistic(label)
    values = [get_statistic(labels) for labels in label_all(sorted({*names}))]
    return float(np.mean(np.array(values) >= observed * (1.0 - 1e-5)))


@pytest.mark.parametrize(("of_reference", "of_stream"), [("aaaaaaa", "aaaa"), ("aaaaabbbb", "aabb"), ("aaaa", "aabb")])
def test_the_p_value_is_that_of_all_labellings_within_strata(of_reference: str, of_stream: str) -> None:
    """The last case has a scanner that the reference lacks: its rows are in no labelling and change nothing."""
    rng = np.random.default_rng(len(of_reference))
    epoch = make_epoch(rng.normal(size=(len(of_reference), 3)), tuple(of_reference))
    stream = rng.normal(size=(len(of_stream), 3)) + 0.5
    for row, stratum in zip(stream, of_stream, strict=True):
        epoch.add(row, "", stratum)
    p_value = first_rows.get_first_p_value(epoch.reference.scorer, epoch.strata, epoch.draws, 4 / 20_000)
    expected = compute_all_p_values(epoch, stream, of_stream)
    assert 0.01 < expected < 0.99
    assert p_value == pytest.approx(expected, abs=5 * math.sqrt(expected * (1 - expected) / 20_000))


def observe(shift: float, seed: int, *, length: int = 8, alpha: float = 0.5, others: bool = True) -> Monitor:
    """Returns a monitor after 60 patients, whose scanners differ by 1 SD and work in sessions."""
    rng = np.random.default_rng(seed)
    scanner = np.repeat(rng.integers(0, 3 if others else 1, 160 // length), length)
    rows = rng.normal(size=(160, CHANNELS)) + rng.normal(size=(3, CHANNELS))[scanner]
    rows[100:] += shift
    names = [f"patient-{row}" for row in range(160)]
    strata = [f"scanner-{one}" for one in scanner]
    options = MonitorOptions(alpha=alpha, first_patients=60, seed=seed)
    monitor = Monitor(options, rows[:100], names[:100], strata[:100])
    monitor.observe(rows[100:], names[100:], names[100:], strata[100:])
    return monitor


def test_sessions_of_scanners_keep_the_level(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 60 streams without a change, 6 ± 2.3 have p ≤ 0.1, whatever the order of the scanners; without strata, 36."""
    monkeypatch.setattr(block_scores, "SUBSETS", 9)  # blocks are no part of this test
    p_values = [observe(0.0, seed).epoch.first_p_value or 0.0 for seed in range(60)]
    assert sum(p <= 0.1 for p in p_values) <= 6 + 4 * 2.3
    assert 15 <= sum(p <= 0.5 for p in p_values) <= 45


def test_a_site_that_differs_from_its_first_row_on_raises_the_alarm_at_once() -> None:
    for seed in range(10):
        monitor = observe(1.0, seed, alpha=0.01, others=seed % 2 == 0)
        alarm = monitor.status.alarm
        assert monitor.epoch.first_p_value == 1 / 4000
        assert alarm is not None
        assert alarm.row <= 60
        assert monitor.status.log_evidence[Component.FIRST_PATIENTS] == pytest.approx(math.log(4000))


def test_a_scanner_that_the_reference_lacks_is_silent() -> None:
    reference = np.random.default_rng(0).normal(size=(60, 4))
    monitor = Monitor(MonitorOptions(alpha=0.1, first_patients=20), reference, [*map(str, range(60))], ["a"] * 60)
    names = [f"new-{row}" for row in range(20)]
    monitor.observe(np.full((20, 4), 50.0), names, names, ["b"] * 20)
    assert monitor.epoch.first_p_value == 1.0


def test_it_is_done_once_and_only_in_the_first_epoch(make_monitor: Any, observe: Any) -> None:
    monitor = make_monitor(first_patients=30)
    rows = np.random.default_rng(5).normal(size=(200, 4))
    observe(monitor, rows[:29])
    assert monitor.epoch.first_p_value is None
    assert monitor.status.log_evidence[Component.FIRST_PATIENTS] == 0.0
    observe(monitor, rows[29:31], first=29)
    first = monitor.epoch.first_p_value
    assert first is not None
    observe(monitor, rows[31:80] + 3.0, first=31)
    assert monitor.epoch.first_p_value == first
    monitor.start_epoch(EpochStart.UNSEEN_REFERENCE, rows[100:], [f"new-{row}" for row in range(100)])
    observe(monitor, rows[80:], first=80)
    assert monitor.epoch.first_p_value is None
    assert Component.FIRST_PATIENTS not in monitor.status.log_evidence
