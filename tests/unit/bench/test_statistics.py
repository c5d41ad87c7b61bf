"""The simulations' summaries: shares of covering intervals, comparisons of powers, and the table that is written."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from bench.statistics import __main__ as command
from bench.statistics import few_patients, fourier, power
from bench.statistics.convergence import SHAPES, draw_noise, get_curve
from bench.statistics.coverage import coverage_shares
from bench.statistics.experiments import simulate_experiments
from bench.statistics.families import simulate_families
from bench.statistics.simulations import Outcome
from bench.statistics.size import binomial_range


def outcome(lower: float, upper: float, *, p: float = 0.01, withheld: bool = False) -> Outcome:
    return Outcome(0.0, p, math.nan, 1.0, lower, upper, withheld)


def test_coverage_counts_shown_and_withheld_intervals_apart() -> None:
    outcomes = [
        outcome(0.0, 2.0),
        outcome(2.0, 3.0),
        outcome(0.0, 2.0, p=0.5),
        outcome(0.0, 2.0, withheld=True),
    ]
    shares = coverage_shares(outcomes, truth=1.0)
    assert shares == {
        "power": 0.75,
        "covered": 0.75,
        "withheld": 0.25,
        "covered_shown": pytest.approx(2 / 3),
        "covered_flagged": 1.0,
    }
    assert math.isnan(coverage_shares([outcome(0.0, 1.0, withheld=True)], truth=0.5)["covered_shown"])


def test_a_power_below_the_competitors_by_more_than_two_standard_errors_is_marked() -> None:
    rejected, competitor = np.array([1.0, 0.0] * 50), np.array([1.0] * 90 + [0.0] * 10)
    assert power._row(("a", rejected, "b", competitor))[-1] == "**no**"
    assert power._row(("a", competitor, "b", rejected))[:5] == ("a", "90.0%", "b", "50.0%", "+40.0% ± 11.7%")


def test_the_binomial_range_is_that_of_the_documented_table() -> None:
    assert binomial_range(2000, 0.05) == (69, 133)


def test_levels_of_an_experiment_are_counted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    section = simulate_experiments(simulations=3, seed=1, processes=1)
    assert section.title.endswith("3 experiments per row")
    (table,) = section.tables
    assert len(table.rows) == 24
    assert {(record["models"], record["tasks"]) for record in section.records} == {
        (models, tasks) for models in (5, 6, 8) for tasks in (4, 5)
    }
    for record in section.records:
        assert (record["within_model"] is None) == (record["tasks"] == 4)
        assert 0 <= record["within_task"] <= 3
    assert "3 of 3 experiments per row" in capsys.readouterr().err
    assert simulate_experiments(simulations=3, seed=1, processes=1).records == section.records


def test_simulated_noise_is_stationary_with_the_stated_autocorrelation() -> None:
    noise = draw_noise(20_000, 9, 0.9, np.random.default_rng(1))
    assert noise.var(axis=0) == pytest.approx(np.ones(9), rel=0.05)
    assert np.mean(noise[:, 0] * noise[:, 8]) == pytest.approx(0.9**8, abs=0.03)


@pytest.mark.parametrize("shape", SHAPES)
def test_simulated_curves_rise_by_one(shape: str) -> None:
    score_T = get_curve(shape, 17)
    assert (score_T[0], score_T.max()) == (0.0, 1.0)


PAIRS = "pairs, correlation 0.9975"
"""Nearly equal samples, where few frequencies carry the error."""


def test_the_bound_of_random_fourier_features_is_simulated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(fourier, "KERNELS", ("laplacian",))
    monkeypatch.setattr(fourier, "CHANNELS", (5,))
    monkeypatch.setattr(fourier, "CHANGES", {name: fourier.CHANGES[name] for name in ("none", PAIRS)})
    arguments = ["--only", "fourier", "--fourier-draws", "40", "--processes", "1", "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["statistics", *arguments])
    assert command.main() == 0
    (section,) = json.loads((tmp_path / "results.json").read_text())["sections"]
    (columns,), rows = {len(row) for row in section["tables"][0]["rows"]}, section["records"]
    assert columns == len(section["tables"][0]["columns"]) == 6
    assert [row["change"] for row in rows] == list(fourier.CHANGES)
    assert all(min(row["covered"]) > 0.93 for row in rows)


def test_related_models_raise_the_level_of_the_test_across_them() -> None:
    section = simulate_families(simulations=60, seed=3, processes=1)
    rejected = {(record["families"], record["share"]): record["rejected"] for record in section.records}
    assert rejected["3+2+1", 1.0] > 9 > rejected["1+1+1+1+1+1", 1.0]


def test_the_lower_ends_of_a_normal_sample_agree_between_methods() -> None:
    rng = np.random.default_rng(1)
    ends = few_patients.get_lower_ends(rng.normal(0.02, 0.05, 200), rng)
    assert ends.pop("sign flips") == 1.0
    assert list(ends.values()) == pytest.approx([ends["Student's t"]] * len(ends), abs=0.0015)


@pytest.mark.parametrize("title", list(few_patients.DIFFERENCES))
def test_simulated_differences_have_the_mean_zero(title: str) -> None:
    values = few_patients.DIFFERENCES[title](np.random.default_rng(1), 400_000)
    assert abs(values.mean()) < 4 * values.std() / 400_000**0.5


def test_losses_of_a_visible_tenth_are_no_gain() -> None:
    """Student's t calls 11 % of them a gain; what remains are samples without a losing patient, 2.5 %."""
    draw = few_patients.DIFFERENCES["loss of 0.15 in one of ten"]
    shares = few_patients.count_false_gains(draw, 35, 300, [7])
    assert shares["Student's t"] > 0.07
    assert max(shares["verdict, 1 seed"], shares["verdict, 3 seeds"]) < 0.055
