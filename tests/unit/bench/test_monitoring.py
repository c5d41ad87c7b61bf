"""What the simulation of the drift monitor publishes: bounds, delays, run lengths, and results of interrupted runs."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench.monitoring import (
    alibi,
    charts,
    cost,
    delay,
    dependent,
    distributions,
    first,
    level,
    power,
    sessions,
    trajectories,
    trustyai,
)
from bench.monitoring.jobs import Job, Jobs, read_results
from bench.monitoring.trajectories import run_stream

from vfmalign.monitoring.sequential import Monitor, MonitorOptions, block_scores, epoch


def make_jobs(folder: Path) -> Jobs:
    return Jobs(folder, processes=1, seed=5, scale=0.001, features=None)


def double(job: Job) -> int:
    return 2 * int(job["value"])


def fail(job: Job) -> int:
    raise RuntimeError(f"{job} ran twice")


def test_an_interrupted_run_resumes(tmp_path: Path) -> None:
    jobs = make_jobs(tmp_path)
    assert jobs.run("some", double, [{"value": 1}, {"value": 4}]) == [2, 8]
    with (tmp_path / "some.jsonl").open("a") as file:
        file.write('\n{"job": {"value": 5}, "res')
    assert jobs.run("some", fail, [{"value": 4}, {"value": 1}]) == [8, 2]
    assert jobs.run("some", double, [{"value": 5}]) == [10]
    assert len(read_results(tmp_path / "some.jsonl")) == 3


def test_bounds_are_those_of_clopper_and_pearson() -> None:
    assert level.get_upper_bound(0, 100, 0.95) == pytest.approx(1 - 0.05 ** (1 / 100))
    assert level.get_lower_bound(3, 3, 0.999) == pytest.approx(0.001 ** (1 / 3))
    assert level.get_lower_bound(0, 10, 0.999) == 0.0
    assert level.get_upper_bound(10, 10, 0.95) == 1.0


def test_levels_above_alpha_are_marked() -> None:
    few, many = [[[None, None]] * 1995 + [[7, None]] * 5], [[[7, None]] * 200 + [[None, None]] * 1800]
    assert "5 of 2,000 streams alarm" in level._judge("d = 32", few, 0)
    assert "**" not in level._judge("d = 32", few, 0)
    assert "**above** 5.5%" in level._judge("d = 32", many, 0)
    assert "**above** α" in level._judge("d = 32", many, 0)


def test_every_distribution_and_reference_has_as_many_streams(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path, processes=1, seed=5, scale=1.0, features=tmp_path / "hippocampus.npz")
    cells = level.get_cells(jobs, 32, 5000, 2000)
    assert len(cells) == 12
    assert {sum(job["count"] for job in cell) for cell in cells} == {167}
    seeds = [seed for job in cells[0] for seed in range(job["seed"], job["seed"] + job["count"])]
    assert seeds == list(range(5, 5 + 167))


@pytest.mark.parametrize("has_strata", [False, True])
def test_a_trajectory_is_that_of_the_monitor(has_strata: bool) -> None:
    rng = np.random.default_rng(0)
    reference, rows = rng.normal(size=(60, 3)), rng.normal(size=(80, 3))
    rows[40:] += 4.0
    strata = ([*"ab"] * 30, [*"abbc"] * 20) if has_strata else None
    trajectory = run_stream(reference, rows, seed=9, strata=strata)
    of_reference, of_stream = strata or (None, None)
    patients = [str(row) for row in range(60)]
    monitor = Monitor(MonitorOptions(alpha=0.05, seed=9), reference, patients, of_reference)
    names = [f"stream-{row}" for row in range(80)]
    observed = monitor.observe(rows, names, names, of_stream)
    assert trajectory.log_evidence_NC.tolist() == [list(one.log_evidence.values()) for one in observed]
    alarm = monitor.status.alarm
    assert alarm is not None
    assert trajectory.get_alarm(0.05) == alarm.row
    until = run_stream(reference, rows, seed=9, until_alpha=0.05, strata=strata)
    assert len(until.log_evidence_NC) == alarm.row
    assert until.list_reached(0.05) == [component.value for component in alarm.components]


def test_a_trajectory_of_a_run_length_is_that_of_the_monitor() -> None:
    rng = np.random.default_rng(0)
    reference, rows = rng.normal(size=(60, 3)), rng.normal(size=(80, 3))
    rows[40:] += 4.0
    trajectory = run_stream(reference, rows, seed=9, run_length=1000)
    monitor = Monitor(MonitorOptions(run_length=1000, seed=9), reference, [str(row) for row in range(60)])
    names = [f"stream-{row}" for row in range(80)]
    observed = monitor.observe(rows, names, names)
    assert trajectory.log_evidence_NC.tolist() == [list(one.log_evidence.values()) for one in observed]
    assert monitor.status.alarm is not None
    excess = trajectory.get_excess(1000)
    assert int((excess >= 0.0).argmax()) + 1 == monitor.status.alarm.row
    np.testing.assert_allclose(trajectory.get_excess(4000), excess - math.log(4.0), atol=1e-12)


def draw_scanners(kind: str, rows: int = 4096) -> tuple[np.ndarray, np.ndarray]:
    """Draws rows of two channels and the number of the scanner of each."""
    drawn, strata = sessions.draw_dependent(kind, rows, 2, np.random.default_rng(4))
    assert drawn.shape == (rows, 2)
    return drawn, np.array([int(stratum.removeprefix("scanner-")) for stratum in strata])


@pytest.mark.parametrize("kind", ["runs 8", "rota 32"])
def test_sessions_are_of_one_scanner(kind: str) -> None:
    rows, scanners = draw_scanners(kind)
    by_session = scanners.reshape(-1, int(kind.split()[1]))
    assert (by_session == by_session[:, :1]).all()
    steps = np.diff(by_session[:, 0]) % sessions.SCANNERS
    assert set(steps) == ({1} if kind.startswith("rota") else {0, 1, 2, 3})
    means = np.array([rows[scanners == scanner].mean(axis=0) for scanner in range(sessions.SCANNERS)])
    assert np.ptp(means, axis=0).min() > 0.3
    within = np.concatenate([rows[scanners == scanner] - means[scanner] for scanner in range(sessions.SCANNERS)])
    assert within.std() == pytest.approx(1.0, abs=0.05)


def test_one_scanner_works_at_night_alone() -> None:
    _, scanners = draw_scanners("night")
    days = scanners.reshape(-1, sessions.DAY_ROWS + sessions.NIGHT_ROWS)
    assert (days[:, sessions.DAY_ROWS :] == sessions.SCANNERS - 1).all()
    assert set(days[:, : sessions.DAY_ROWS].ravel()) == set(range(sessions.SCANNERS - 1))


@pytest.mark.parametrize(
    ("kind", "rho"), [("exchangeable", 0.0), ("autocorrelation 0.1", 0.1), ("autocorrelation 0.3", 0.3)]
)
def test_autocorrelated_rows_have_no_strata(kind: str, rho: float) -> None:
    rows, strata = sessions.draw_dependent(kind, 20_000, 2, np.random.default_rng(5))
    assert set(strata) == {""}
    np.testing.assert_allclose(rows.std(axis=0), 1.0, atol=0.03)
    for channel in rows.T:
        assert np.corrcoef(channel[1:], channel[:-1])[0, 1] == pytest.approx(rho, abs=0.03)


def test_a_season_returns_after_a_year() -> None:
    rows, strata = sessions.draw_dependent("season", 400 * sessions.YEAR_ROWS, 2, np.random.default_rng(6))
    assert set(strata) == {""}
    year = rows.reshape(400, sessions.YEAR_ROWS, 2).mean(axis=0)
    np.testing.assert_allclose(year.std(axis=0), sessions.SEASON_SD / np.sqrt(2), atol=0.02)
    assert np.abs(year.mean(axis=0)).max() < 0.01


def test_streams_follow_the_reference_of_their_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job passes the first rows as the reference, their strata with them, and none where it says so."""
    calls: list[tuple[Any, ...]] = []

    def run(reference: np.ndarray, rows: np.ndarray, seed: int, **named: Any) -> trajectories.Trajectory:
        calls.append((reference, rows, seed, named))
        return trajectories.Trajectory(np.array([[0.0] * 4, [99.0, 0.0, 0.0, 99.0]]), 3)

    monkeypatch.setattr(dependent, "run_stream", run)
    job = {"kind": "runs 8", "reference": 60, "rows": 40, "channels": 3, "alpha": 0.01, "seed": 7, "count": 2}
    assert dependent.run_dependent(job) == [(2, ["rows", "channels"])] * 2
    dependent.run_dependent({**job, "kind": "runs 8 without strata", "count": 1})
    expected, strata = sessions.draw_dependent("runs 8", 100, 3, distributions.make_rng(7))
    for reference, rows, seed, named in (calls[0], calls[2]):
        np.testing.assert_array_equal(np.concatenate([reference, rows]), expected)
        assert (len(reference), seed, named["until_alpha"]) == (60, 7, 0.01)
    assert [one[3]["strata"] for one in (calls[0], calls[2])] == [(strata[:60], strata[60:]), None]
    assert calls[1][2] == 8


def test_limits_of_dependent_streams_are_marked() -> None:
    assert dependent._judge(0.03) == "at most"
    assert dependent._judge(0.031) == "**above**"
    row = dependent._make_row(("runs 8", 1000, 32, 200), [None] * 3 + [[7, ["rows"]]], Counter(rows=1), 0.0025)
    assert row == ("runs 8", "1,000", "32", "4", "25.0%", "rows 1", "0.2%")
    shown = dependent._make_row(("season", 200, 32, 60), [None] * 4, Counter(), None)
    assert shown == ("season", "200", "32", "4", "0.0%", "–", "–")


def test_delays_leave_out_streams_that_alarm_before_the_change() -> None:
    early, delays = power.get_delays([5, power.BEFORE, power.BEFORE + 1, power.BEFORE + 30, None])
    assert (early, delays) == (2, [1.0, 30.0, math.inf])
    assert [power.get_quantile(delays, share) for share in (0.1, 0.5, 0.9)] == [1.0, 30.0, math.inf]
    assert power.summarise(early, delays) == ("5", "2", "66.7%", "30", f"> {power.AFTER}")
    assert "**below** 95%" in power._judge("shift 0.5", delays, 200, 0.95)


@pytest.mark.parametrize("change", power.GENERATED)
def test_generated_changes_begin_after_the_rows_before(change: str) -> None:
    reference, rows = distributions.draw_changed(change, (60, 40, 4000), 8, np.random.default_rng(1), None)
    assert (reference.shape, rows.shape) == ((60, 8), (4040, 8))
    before, after = np.concatenate([reference, rows[:40]]), rows[40:]
    assert np.abs(before.mean()) < 0.2
    moved = np.linalg.norm(after.mean(axis=0))
    kind, _, text = change.rpartition(" ")
    amount = float(text)
    if kind == "variance":
        assert after.var() == pytest.approx(amount, rel=0.05)
    elif kind == "mixture":
        assert moved == pytest.approx(amount * np.sqrt(8), rel=0.25)
    else:
        sparse = np.sqrt(distributions.SPARSE_CHANNELS)
        scale = {"shift": np.sqrt(8), "sparse": sparse, "direction": 1.0, "t3 shift": np.sqrt(3 * 8)}[kind]
        assert moved == pytest.approx(amount * scale, rel=0.2)


@pytest.mark.parametrize(
    "change", ["shift 0.5", "sparse 1", "variance 1.5", "variance 0.7", "mixture 0.05", "mixture 0.2"]
)
def test_likelihood_ratios_weigh_the_rows_before_to_those_after(change: str) -> None:
    """The mean of a likelihood ratio is 1 before the change; that of its logarithm is negative, and positive after."""
    _, rows = distributions.draw_changed(change, (0, 40_000, 40_000), 4, np.random.default_rng(1), None)
    ratios = distributions.get_log_likelihood_ratio(change, rows)
    before, after = ratios[:40_000], ratios[40_000:]
    assert np.exp(before).mean() == pytest.approx(1.0, abs=0.15)
    assert before.mean() < 0.0 < after.mean()


def test_a_run_length_counts_streams_that_do_not_alarm() -> None:
    assert delay.get_run_length([100, None, 300, None], 1000) == pytest.approx(2400 / 2)
    recorded = [delay.Recorded([1, 50, 400], [-2.0, 0.5, 1.5], 1000), delay.Recorded([3], [-1.0], 1000)]
    assert [one.get_alarm(1.0) for one in recorded] == [400, None]
    offset = delay.find_offset(recorded, 1400.0)
    assert 0.5 < offset <= 1.5
    assert delay.get_monitor_length(recorded, offset) == 1400.0


def test_delays_are_recorded_from_the_evidence_of_a_run_length() -> None:
    rng = np.random.default_rng(0)
    reference, rows = rng.normal(size=(60, 3)), rng.normal(size=(60, 3))
    rows[20:] += 4.0
    recorded = delay.Recorded(**delay._record(reference, rows, 9))
    patients = [str(row) for row in range(60)]
    monitor = Monitor(MonitorOptions(run_length=alibi.RUN_LENGTH, seed=9), reference, patients)
    names = [f"stream-{row}" for row in range(60)]
    monitor.observe(rows, names, names)
    assert monitor.status.alarm is not None
    assert recorded.get_alarm(0.0) == monitor.status.alarm.row
    assert recorded.length == 60


@pytest.mark.parametrize("method", charts.METHODS)
def test_every_chart_rises_after_a_change(method: str) -> None:
    reference, rows = distributions.draw_changed("shift 1", (200, 200, 100), 6, np.random.default_rng(2), None)
    values = charts.METHODS[method](reference, rows, 3, "shift 1")
    assert values.shape == (300,)
    maxima = charts._list_maxima(values)
    assert maxima["values"][-1] == values.max()
    alarm = charts._find_alarm(maxima, float(values[:200].max()))
    assert alarm is not None
    assert 200 < alarm <= 250


def test_the_schedule_without_correction_rejects_what_differs() -> None:
    rng = np.random.default_rng(3)
    reference, rows = rng.normal(size=(80, 4)), rng.normal(size=(300, 4))
    rows[100:] += 2.0
    assert trustyai.get_alarm(reference, rows, 0) == 200
    kernel = np.exp(-np.square(rows[:60, None] - rows[None, :60]).sum(axis=-1) / 8.0)
    p = [trustyai.get_p_value(kernel[order][:, order], 30, rng) for order in (rng.permutation(60) for _ in range(60))]
    assert 0.2 < np.mean(p) < 0.8


def test_sections_run_in_miniature(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Jobs, "run", lambda self, section, function, jobs: [function(job) for job in jobs])
    monkeypatch.setattr(alibi, "get_absent_reason", lambda: "not installed")
    monkeypatch.setattr(power, "GENERATED", ("shift 0.5",))
    monkeypatch.setattr(level, "REFERENCES", (60,))
    monkeypatch.setattr(level, "GENERATED", ("gaussian",))
    monkeypatch.setattr(level, "get_cells", lambda jobs, channels, rows, streams: [[_LEVEL_JOB]])
    for name, value in (("CHANNELS", 5), ("REFERENCE", 60), ("MEASURED_ROWS", 32), ("BAGS", (100, 200))):
        monkeypatch.setattr(cost, name, value)
    monkeypatch.setattr(cost, "REQUIRED", {"bag of 100": 0, "bag of 200": 0, "after the blocks": 0})
    for module in (block_scores, epoch):
        monkeypatch.setattr(module, "LAST_ROW", 320)
    kinds: dict[str, Any] = {"KINDS": ("runs 2", "night"), "WIDE": (), "SHOWN": ("season",), "ROWS": 40}
    for kind, chosen in kinds.items():
        monkeypatch.setattr(dependent, kind, chosen)
    jobs = make_jobs(tmp_path)
    assert "0 of 1 streams alarm" in level.simulate_level(jobs).sentences[0]
    assert level.simulate_competitors(jobs).tables[0].rows[0][:3] == ("gaussian", "60", "1")
    section = dependent.simulate_dependent(jobs)
    assert [row[:4] for row in section.tables[0].rows][::3] == [
        ("runs 2", "200", "32", "1"),
        ("night", "1,000", "32", "1"),
    ]
    assert "0.00% alarm, at most 3%" in section.sentences[0]
    assert "0 of 1 alarm, 99.9 % interval 0.0% to 100.0%, which does not lie above α" in section.sentences[1]
    for name, value in (("PATIENTS", 30), ("ROWS", 40)):
        monkeypatch.setattr(first, name, value)
    first_tables = first.simulate_first(jobs).tables
    assert [len(table.rows) for table in first_tables] == [len(first.SHIFTS), 6, 8]
    monkeypatch.setattr(charts, "CHANGES", ("sparse 1",))
    monkeypatch.setattr(charts, "AFTER", 60)
    monkeypatch.setattr(charts, "KS_STEP", 50)
    assert charts.simulate_charts(jobs).tables[0].rows[0][0] == "sparse 1"
    assert "100.0% alarm within 200 rows" in power.simulate_power(jobs).sentences[0]
    assert [row[0] for row in cost.measure_cost(jobs).tables[0].rows] == [
        "bag of 100",
        "bag of 200",
        "after the blocks",
    ]
    assert delay.simulate_delay(jobs).sentences == ["alibi-detect: not installed."]


_LEVEL_JOB = {
    "distribution": "gaussian",
    "reference": 60,
    "channels": 4,
    "rows": 260,
    "features": None,
    "seed": 1,
    "count": 1,
}
