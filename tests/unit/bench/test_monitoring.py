"""What the simulation of the drift monitor publishes: bounds, delays, run lengths, and results of interrupted runs."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from bench.monitoring import alibi, cost, delay, distributions, level, power, trustyai
from bench.monitoring.jobs import Job, Jobs, read_results
from bench.monitoring.trajectories import run_stream

from vfmalign.monitoring.sequential import Monitor, MonitorOptions, block_scores


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


def test_a_trajectory_is_that_of_the_monitor() -> None:
    rng = np.random.default_rng(0)
    reference, rows = rng.normal(size=(60, 3)), rng.normal(size=(80, 3))
    rows[40:] += 4.0
    trajectory = run_stream(reference, rows, seed=9)
    monitor = Monitor(MonitorOptions(alpha=0.05, seed=9), reference, [str(row) for row in range(60)])
    names = [f"stream-{row}" for row in range(80)]
    observed = monitor.observe(rows, names, names)
    assert trajectory.log_martingale_NC.tolist() == [list(one.log_evidence.values()) for one in observed]
    assert monitor.status.alarm is not None
    assert trajectory.get_alarm(0.05) == monitor.status.alarm.row
    assert len(run_stream(reference, rows, seed=9, until_alpha=0.05).log_martingale_NC) == monitor.status.alarm.row


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
    if kind == "variance":
        assert after.var() == pytest.approx(float(text), rel=0.05)
    else:
        scale = {"shift": np.sqrt(8), "direction": 1.0, "t3 shift": np.sqrt(3 * 8)}[kind]
        assert moved == pytest.approx(float(text) * scale, rel=0.2)


def test_a_run_length_counts_streams_that_do_not_alarm() -> None:
    assert delay.get_run_length([100, None, 300, None], 1000) == pytest.approx(2400 / 2)
    recorded = [delay.Recorded([1, 50, 400], [-2.0, 0.5, 1.5], 1000), delay.Recorded([3], [-1.0], 1000)]
    assert [one.get_alarm(1.0) for one in recorded] == [400, None]
    offset = delay.find_offset(recorded, 1400.0)
    assert 0.5 < offset <= 1.5
    assert delay.get_monitor_length(recorded, offset) == 1400.0


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
    monkeypatch.setattr(block_scores, "LAST_ROW", 320)
    jobs = make_jobs(tmp_path)
    assert "0 of 1 streams alarm" in level.simulate_level(jobs).sentences[0]
    assert level.simulate_competitors(jobs).tables[0].rows[0][:3] == ("gaussian", "60", "1")
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
