"""Which observations enter, what alarms, and what an epoch guarantees."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from vfmalign.core.domain.errors import BadOption, BadTensor, InvalidInput
from vfmalign.monitoring.sequential import SEQUENTIAL, Alarm, Component, EpochStart, MonitorOptions, Outcome, epoch
from vfmalign.monitoring.sequential.thresholds import get_log_run_length_thresholds, get_log_thresholds


def get_outcomes(observations: Any) -> list[Outcome]:
    return [one.outcome for one in observations]


def test_only_the_first_observation_of_a_patient_enters(make_monitor: Any, observe: Any) -> None:
    monitor = make_monitor()
    rows = np.random.default_rng(5).normal(size=(5, 4))
    rows[3, 2] = np.nan
    patients = ["a", "reference-3", "a", "b", "b"]
    observations = observe(monitor, rows, patients=patients)
    assert get_outcomes(observations) == [
        Outcome.ENTERED,
        Outcome.REFERENCE_PATIENT,
        Outcome.REPEATED_PATIENT,
        Outcome.NOT_FINITE,
        Outcome.ENTERED,
    ]
    assert [one.row for one in observations] == [1, 0, 0, 0, 2]
    assert [one.p_value is None for one in observations] == [False, True, True, True, False]
    assert monitor.status.rows == 2
    assert monitor.status.outcomes == {
        Outcome.ENTERED: 2,
        Outcome.REPEATED_PATIENT: 1,
        Outcome.REFERENCE_PATIENT: 1,
        Outcome.NOT_FINITE: 1,
    }
    alone = make_monitor()
    observe(alone, rows[[0, 4]], patients=["a", "b"])
    assert alone.status.log_evidence == monitor.status.log_evidence


def test_a_window_admits_patients_again(make_monitor: Any, observe: Any) -> None:
    monitor = make_monitor(patient_window_days=30)
    rows = np.random.default_rng(5).normal(size=(6, 4))
    observations = observe(
        monitor, rows, patients=["a", "a", "a", "reference-1", "a", "a"], days=[0, 29, 30, 400, 59, 5]
    )
    expected = [
        Outcome.ENTERED,
        Outcome.REPEATED_PATIENT,
        Outcome.ENTERED,
        Outcome.REFERENCE_PATIENT,
        Outcome.REPEATED_PATIENT,
        Outcome.REPEATED_PATIENT,
    ]
    assert get_outcomes(observations) == expected
    with pytest.raises(InvalidInput, match="days are missing"):
        observe(monitor, rows)


@pytest.mark.parametrize(
    ("named", "error", "message"),
    [
        ({"rows": np.zeros((2, 3))}, BadTensor, "expected 4 channels as in the reference, got 3"),
        ({"rows": np.zeros(4)}, BadTensor, "expected a matrix"),
        ({"patients": ["a"]}, InvalidInput, "patients: expected 2 values, got 1"),
        ({"strata": ["a"]}, InvalidInput, "strata: expected 2 values, got 1"),
    ],
)
def test_a_refused_call_changes_nothing(
    make_monitor: Any, observe: Any, named: dict[str, Any], error: type[Exception], message: str
) -> None:
    monitor = make_monitor()
    before = monitor.status
    with pytest.raises(error) as caught:
        observe(monitor, named.pop("rows", np.zeros((2, 4))), **named)
    assert message in str(caught.value)
    assert monitor.status == before


def test_absurd_rows_are_extreme_and_do_no_harm(make_monitor: Any, observe: Any) -> None:
    monitor = make_monitor()
    observations = observe(monitor, np.full((20, 4), 1e308) * np.array([1, -1, 1, -1]))
    assert observations[0].p_value == pytest.approx(1 / 41)
    assert np.isfinite(list(monitor.status.log_evidence.values())).all()
    assert monitor.status.alarm is not None


def test_the_alarm_is_the_first_row_at_its_threshold(make_monitor: Any, observe: Any) -> None:
    monitor = make_monitor(rows=200, alpha=0.05)
    rows = np.random.default_rng(6).normal(size=(120, 4))
    rows[60:] += 3.0
    observations = observe(monitor, rows)
    limits = get_log_thresholds(0.05, 1, channels=4)
    reached = [tuple(name for name in SEQUENTIAL if one.log_evidence[name] >= limits[name]) for one in observations]
    first = next(row for row, names in enumerate(reached) if names)
    assert 60 < first < 75
    assert monitor.status.alarm == Alarm(row=first + 1, observation=f"stream-{first}", components=reached[first])
    assert [one.raised_alarm for one in observations].count(True) == 1
    assert monitor.status.log_threshold == limits


def test_a_run_length_has_its_own_thresholds(make_monitor: Any, observe: Any) -> None:
    monitor = make_monitor(rows=200, run_length=1000)
    assert monitor.status.log_evidence == dict.fromkeys(SEQUENTIAL, -math.inf)
    observations = observe(monitor, np.random.default_rng(6).normal(size=(60, 4)) + 2.5)
    assert monitor.status.log_threshold == get_log_run_length_thresholds(1000, channels=4)
    assert observations[-1].log_evidence == monitor.status.log_evidence
    assert monitor.status.log_evidence[Component.BLOCKS_OF_4] > 0.0
    assert monitor.status.log_evidence[Component.BLOCKS_OF_16] == -math.inf
    assert monitor.status.alarm is not None
    assert monitor.status.alarm.row < 20
    assert monitor.status.has_guarantee


def test_the_most_extreme_rows_are_named(make_monitor: Any, observe: Any) -> None:
    monitor = make_monitor()
    rows = np.random.default_rng(6).normal(size=(100, 4))
    rows[[17, 55]] += [[9.0], [30.0]]
    observe(monitor, rows)
    extremes = monitor.status.extreme_rows
    assert [row.observation for row in extremes[:2]] == ["stream-55", "stream-17"]
    assert len(extremes) == 20
    assert extremes[0].p_value == pytest.approx(1 / (40 + 56))
    assert [row.score for row in extremes] == sorted((row.score for row in extremes), reverse=True)


@pytest.mark.parametrize("run_length", [None, 1000])
@pytest.mark.parametrize("strata", [None, ["a", "b"] * 30])
def test_blocks_stop_and_rows_go_on(
    make_monitor: Any, observe: Any, monkeypatch: pytest.MonkeyPatch, strata: Any, run_length: int | None
) -> None:
    monkeypatch.setattr(epoch, "LAST_ROW", 150)
    monitor = make_monitor(strata=strata, run_length=run_length)
    rows = np.random.default_rng(6).normal(size=(220, 4))
    names = ["a"] * 140 + ["b"] * 20 + [*"abc", ""] * 15
    observe(monitor, rows[:149], strata=names[:149])
    assert monitor.status.blocks_are_active
    assert monitor.epoch.memory_bytes > 100_000
    observe(monitor, rows[149:151], first=149, strata=names[149:151])
    stopped = monitor.status
    assert not stopped.blocks_are_active
    observe(monitor, rows[151:] + 5.0, first=151, strata=names[151:])
    blocks = (Component.BLOCKS_OF_4, Component.BLOCKS_OF_16)
    assert all(monitor.status.log_evidence[name] == stopped.log_evidence[name] != 0.0 for name in blocks)
    assert monitor.status.log_evidence[Component.ROWS] > stopped.log_evidence[Component.ROWS] + 10
    assert monitor.status.log_evidence[Component.CHANNELS] > stopped.log_evidence[Component.CHANNELS] + 5
    assert all(one.blocks is None for one in monitor.epoch.strata.values())
    assert monitor.epoch.memory_bytes < 20_000


def test_strata_are_counted(make_monitor: Any, observe: Any) -> None:
    monitor = make_monitor(rows=90, strata=[*"aab"] * 30)
    observe(monitor, np.random.default_rng(6).normal(size=(8, 4)), strata=[*"aabcc", "", "a", "c"])
    assert monitor.status.reference_strata == {"a": 40, "b": 20}
    assert monitor.status.strata == {"a": 3, "b": 1, "c": 3, "": 1}
    unnamed = make_monitor(rows=90)
    observe(unnamed, np.random.default_rng(6).normal(size=(2, 4)), strata=["a", "b"])
    assert (unnamed.status.reference_strata, unnamed.status.strata) == ({}, {})


def test_evidence_of_few_channels_is_that_of_the_largest(make_monitor: Any, observe: Any) -> None:
    monitor = make_monitor(rows=200, channels=32, alpha=0.05)
    rows = np.random.default_rng(6).normal(size=(150, 32))
    rows[:, [3, 17]] += [1.5, -1.5]
    observe(monitor, rows)
    alarm = monitor.status.alarm
    assert alarm is not None
    assert alarm.components == (Component.CHANNELS,)
    assert alarm.row < 60
    values = monitor.epoch.evidence[Component.CHANNELS].stakes_ESK.sum(axis=(0, 1))
    assert set(np.argsort(values)[-2:]) == {3, 17}


def test_a_new_epoch_begins_anew_and_spends_its_share(make_monitor: Any, observe: Any) -> None:
    monitor = make_monitor(alpha=0.05)
    rows = np.random.default_rng(7).normal(size=(200, 4))
    observe(monitor, rows[:30] + 4.0)
    first = monitor.status
    assert first.alarm is not None
    patients = [f"new-{row}" for row in range(100)]
    monitor.start_epoch(EpochStart.UNSEEN_REFERENCE, rows[100:], patients)
    status = monitor.status
    assert (status.epoch, status.rows, status.alarm, status.has_guarantee) == (2, 0, None, True)
    assert status.log_evidence == dict.fromkeys(SEQUENTIAL, 0.0)
    assert status.log_threshold == get_log_thresholds(0.05, 2, channels=4)
    assert status.log_threshold[Component.ROWS] == pytest.approx(math.log(1 / (0.4 * 0.05 * 0.1)))
    assert status.earlier[0].alarm == first.alarm
    assert get_outcomes(observe(monitor, rows[:3], patients=["new-0", "reference-0", "stream-0"])) == [
        Outcome.REFERENCE_PATIENT,
        Outcome.REFERENCE_PATIENT,
        Outcome.REPEATED_PATIENT,
    ]


@pytest.mark.parametrize("seen", ["reference-5", "stream-2"])
def test_a_reference_that_was_seen_has_no_guarantee(make_monitor: Any, observe: Any, seen: str) -> None:
    monitor = make_monitor()
    rows = np.random.default_rng(7).normal(size=(70, 4))
    observe(monitor, rows[:10])
    patients = [seen, *(f"new-{row}" for row in range(69))]
    with pytest.raises(InvalidInput, match="an earlier epoch has seen patients of the reference: 1 of 70"):
        monitor.start_epoch(EpochStart.UNSEEN_REFERENCE, rows, patients)
    assert monitor.status.epoch == 1
    monitor.start_epoch(EpochStart.RESET, rows, patients)
    assert not monitor.status.has_guarantee
    with pytest.raises(InvalidInput, match="an earlier epoch has seen patients of the reference: 70 of 70"):
        monitor.start_epoch(EpochStart.FIXED, rows, patients)
    assert not monitor.status.has_guarantee
    monitor.start_epoch(EpochStart.FIXED, rows, [f"newer-{row}" for row in range(70)])
    assert monitor.status.has_guarantee
    assert [one.start for one in monitor.status.earlier] == [EpochStart.FIXED, EpochStart.RESET]


def test_a_fixed_start_takes_any_reference_until_rows_may_have_caused_one(make_monitor: Any, observe: Any) -> None:
    monitor = make_monitor()
    rows = np.random.default_rng(7).normal(size=(70, 4))
    observe(monitor, rows[:10])
    entered = [f"stream-{row}" for row in range(10)]
    monitor.start_epoch(EpochStart.FIXED, rows, [*entered, *(f"new-{row}" for row in range(60))])
    unseen = [f"unseen-{row}" for row in range(70)]
    monitor.start_epoch(EpochStart.UNSEEN_REFERENCE, rows, unseen)
    monitor.start_epoch(EpochStart.FIXED, rows, unseen)
    newer = [*unseen[:60], *(f"newer-{row}" for row in range(10))]
    monitor.start_epoch(EpochStart.FIXED, rows, newer)
    with pytest.raises(InvalidInput, match="an earlier epoch has seen patients of the reference: 1 of 70"):
        monitor.start_epoch(EpochStart.FIXED, rows, ["new-0", *newer[1:]])
    assert (monitor.status.epoch, monitor.status.has_guarantee) == (5, True)


@pytest.mark.parametrize(
    "options",
    [
        {"alpha": 0.0},
        {"alpha": 0.6},
        {"alpha": math.nan},
        {"run_length": 10},
        {"run_length": 2 * 10**9},
        {"patient_window_days": 0},
        {"first_patients": 19},
        {"first_patients": 501},
        {"first_patients": 50, "alpha": 0.0009},
        {"first_patients": 50, "run_length": 1000},
        {"seed": -1},
        {"seed": 2**63},
    ],
)
def test_options_outside_their_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(BadOption):
        MonitorOptions(**options)
