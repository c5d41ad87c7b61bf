"""Averages over seeds: their intervals cover seeds and patients."""

import numpy as np
import pytest

from vfmalign.analysis.checks.seed_variation import summarise_estimates
from vfmalign.analysis.checks.verdict import Verdict
from vfmalign.analysis.experiments.averages import average_seeds
from vfmalign.analysis.experiments.points import make_points
from vfmalign.analysis.gains.crossed_gain import estimate_crossed_gain
from vfmalign.analysis.gains.paired_scores import pair_seeds
from vfmalign.client.messages.common import Estimate, absent


@pytest.fixture
def average():
    def run(cells):
        (point,) = make_points(cells)
        return average_seeds(point, 0.95)

    return run


@pytest.fixture
def cells(make_cells):
    return make_cells(1, 1, 3)


def test_the_difference_and_its_verdict_are_those_of_the_crossed_analysis(average, cells):
    networks = ([cell.scores[name] for cell in cells] for name in ("pretrained", "specialised"))
    crossed = estimate_crossed_gain(pair_seeds(*networks, cells[0].metric), cells[0].metric, level=0.95)
    result = average(cells)
    assert result.gain_difference == crossed.absolute
    assert result.gain_difference.value == pytest.approx(np.mean([cell.gain_difference.value for cell in cells]))
    assert result.verdict.label in {"gain", "inconclusive", "equivalent", "harm"}
    assert f"{result.gain_difference.interval.level * 100:g} % interval" in result.verdict.reason


def test_the_answer_on_pretraining_is_about_another_draw_of_random_weights(average, make_cells):
    cells = make_cells(1, 1, 3, patients=20)
    networks = ([cell.scores[name] for cell in cells] for name in ("pretrained", "scratch"))
    crossed = estimate_crossed_gain(
        pair_seeds(*networks, cells[0].metric), cells[0].metric, level=0.95, another_draw=True
    )
    result = average(cells)
    assert result.scratch_difference == crossed.absolute
    assert crossed.variance.another_draw > 0
    assert result.pretraining.label == "gain"
    assert "of the same network without pretraining" in result.pretraining.reason
    assert "of the specialised network" in result.verdict.reason


def test_two_seeds_claim_nothing(average, make_cells):
    result = average(make_cells(1, 1, 2, patients=20))
    assert result.scratch_difference.interval.lower > 0
    assert result.pretraining.label == "inconclusive"
    assert "with 2 trainings of each network" in result.pretraining.reason


@pytest.mark.parametrize("seeds", [1, 3])
def test_cells_of_earlier_versions_have_no_answer_on_pretraining(average, make_cells, seeds):
    old = [
        cell.model_copy(
            update={
                "scores": {name: cell.scores[name] for name in ("pretrained", "specialised")},
                "pretraining": None,
                "scratch_difference": None,
            }
        )
        for cell in make_cells(1, 1, seeds)
    ]
    result = average(old)
    assert (result.pretraining, result.scratch_difference) == (None, None)
    assert result.verdict == average(make_cells(1, 1, seeds)).verdict


def test_the_relative_gain_is_the_ranked_mean_with_the_ends_of_the_crossed_analysis(average, cells):
    networks = ([cell.scores[name] for cell in cells] for name in ("pretrained", "specialised"))
    crossed = estimate_crossed_gain(pair_seeds(*networks, cells[0].metric), cells[0].metric, level=0.95)
    gain, expected = average(cells).gain, crossed.relative_percent
    assert gain.value == pytest.approx(np.mean([cell.gain.value for cell in cells]))
    assert gain.interval.lower - gain.value == pytest.approx(expected.interval.lower - expected.value)
    assert gain.interval.upper - gain.value == pytest.approx(expected.interval.upper - expected.value)


def test_the_shift_adds_half_widths_of_seeds_and_of_patients_in_squares(average, cells):
    assert average(cells).shift == summarise_estimates([cell.shift for cell in cells]).mean


def test_one_seed_has_the_intervals_and_the_verdict_of_its_check(average, cells):
    result = average(cells[:1])
    assert (result.gain, result.gain_difference, result.verdict) == (
        cells[0].gain, cells[0].gain_difference, cells[0].verdict,
    )  # fmt: skip
    assert (result.scratch_difference, result.pretraining) == (cells[0].scratch_difference, cells[0].pretraining)
    assert result.shift == cells[0].shift


def test_a_seed_without_a_number_takes_the_interval_with_it(average, cells):
    lacking = cells[1].model_copy(update={"shift": absent("no scale"), "gain": absent("under the floor")})
    result = average([cells[0], lacking, cells[2]])
    assert result.shift.value == pytest.approx((cells[0].shift.value + cells[2].shift.value) / 2)
    assert (result.shift.interval, result.shift.absent_reason) == (None, "1 of 3 seeds have no shift")
    assert result.seeds_without_value["gain"] == 1
    nothing = average([cell.model_copy(update={"shift": absent("no scale")}) for cell in cells])
    assert nothing.shift == absent("no scale")


def test_no_interval_is_formed_for_the_shift_ratio(average, cells):
    ratio = average(cells).shift_ratio
    assert ratio.value == pytest.approx(np.mean([cell.shift_ratio.value for cell in cells]))
    assert ratio.interval is None
    assert ratio.absent_reason


def test_a_cell_that_was_not_held_out_takes_the_verdict(average, cells):
    flags = cells[0].flags.model_copy(update={"not_held_out": True})
    result = average([cells[0].model_copy(update={"flags": flags}), *cells[1:]])
    assert (result.verdict.label, result.pretraining.label) == ("insufficient_data", "insufficient_data")


def test_an_estimate_without_a_value_is_absent_with_every_reason(average, cells):
    reasons = ("a", "b", "a")
    lacking = [
        cell.model_copy(update={"shift_ratio": absent(reason)}) for cell, reason in zip(cells, reasons, strict=True)
    ]
    assert average(lacking).shift_ratio == Estimate(absent_reason="a; b")


def test_a_rehearsal_has_no_verdict_over_several_seeds(average, cells):
    rehearsal = Verdict(label="insufficient_training", reason="4 of the recipe's 4,000 steps")
    result = average([cell.model_copy(update={"verdict": rehearsal}) for cell in cells])
    assert result.verdict == result.pretraining == rehearsal
