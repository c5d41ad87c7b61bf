"""The nested bootstrap: reproducible, joint where cases are shared, and compared with known distributions."""

import numpy as np
import pytest

from vfmalign.finetuning.experiments.analysis.bootstrap import resample
from vfmalign.finetuning.experiments.analysis.experiment_report import analyse_cells
from vfmalign.finetuning.experiments.analysis.points import make_points


def test_equal_seeds_give_equal_draws_in_any_order(make_cells):
    cells = make_cells(3, 2, 2)
    one = resample(make_points(cells), seed=5, resamples=50)
    other = resample(make_points(cells[::-1]), seed=5, resamples=50)
    changed = resample(make_points(cells), seed=6, resamples=50)
    for key, draws in one.items():
        for quantity in ("mmd2_std", "shift_ratio", "gain", "convergence"):
            np.testing.assert_array_equal(draws.get(quantity), other[key].get(quantity))
        assert not np.array_equal(draws.gain_R, changed[key].gain_R)


def test_models_of_a_task_share_their_patients(make_cells):
    cells = make_cells(2, 1)
    twin = cells[0].model_copy(update={"model": cells[1].model})
    draws = resample(make_points([cells[0], twin]), seed=1, resamples=80)
    (one, other) = draws.values()
    np.testing.assert_array_equal(one.gain_R, other.gain_R)
    assert not np.array_equal(one.shift_R, other.shift_R)


def test_draws_vary_as_the_check_s_own_interval_says(make_cells):
    cell = make_cells(1, 1, patients=60)[0]
    draws = resample(make_points([cell]), seed=1, resamples=4000)[cell.model, cell.task]
    assert draws.gain_R.mean() == pytest.approx(cell.gain.value, abs=0.3)
    half = (cell.gain.interval.upper - cell.gain.interval.lower) / 2
    assert 1.96 * draws.gain_R.std() == pytest.approx(half, rel=0.25)
    assert draws.shift_R.std() == pytest.approx(cell.shift_se, rel=0.05)
    assert draws.ratio_R == pytest.approx(draws.shift_R / 0.6)
    assert not draws.get_caveat("mmd2_std")


def test_seeds_are_drawn_within_model_and_task(make_cells, with_numbers):
    cell = make_cells(1, 1)[0]
    seeds = [
        with_numbers(cell, shift=shift, share=share).model_copy(update={"seed": seed})
        for seed, (shift, share) in enumerate([(1.0, 0.2), (2.0, 0.8)])
    ]
    seeds = [one.model_copy(update={"shift_se": 0.0}) for one in seeds]
    draws = resample(make_points(seeds), seed=1, resamples=2000)[cell.model, cell.task]
    values, counts = np.unique(draws.shift_R, return_counts=True)
    assert values == pytest.approx([1.0, 1.5, 2.0])
    assert counts / 2000 == pytest.approx([0.25, 0.5, 0.25], abs=0.05)
    assert np.unique(draws.step_share_R.round(3)).tolist() == [0.2, 0.5, 0.8]


def test_a_class_is_never_lost(make_cells):
    cells = [cell for cell in make_cells(1, 5, patients=12) if cell.task == "classification"]
    draws = resample(make_points(cells), seed=1, resamples=500)[cells[0].model, "classification"]
    assert np.isfinite(draws.gain_R).all()


def test_few_patients_and_an_unknown_error_are_caveats(make_cells):
    few = make_cells(1, 1, patients=6)
    draws = resample(make_points(few), seed=1, resamples=5)[few[0].model, few[0].task]
    assert all("6 test patients" in draws.get_caveat(quantity) for quantity in ("mmd2_std", "gain"))
    bare = [cell.model_copy(update={"shift_se": None}) for cell in make_cells(1, 1)]
    draws = resample(make_points(bare), seed=1, resamples=5)[bare[0].model, bare[0].task]
    assert np.ptp(draws.shift_R) == 0
    caveats = {name: draws.get_caveat(name) for name in ("mmd2_std", "shift_ratio", "gain", "convergence")}
    assert [name for name, caveat in caveats.items() if "has no standard error" in caveat] == [
        "mmd2_std",
        "shift_ratio",
    ]


def test_an_unknown_error_of_the_shift_marks_the_shift_and_the_correlation_but_no_gain(make_cells):
    """The shift of one seed has no standard error, so that its mean varies with the seeds alone."""
    cells = make_cells(6, 2, 2)
    cells = [one.model_copy(update={"shift_se": None} if place % 2 else {}) for place, one in enumerate(cells)]
    report = analyse_cells("e", "t", cells, [], seed=1, resamples=200, level=0.95)
    reason = "the shift has no standard error and is held constant"
    for average in report.averages:
        assert average.shift.absent_reason == reason
        assert average.shift.degenerate
        assert average.gain.absent_reason == ""
        assert average.gain.interval is not None
        assert not average.gain.degenerate
    rho = next(claim.rho for claim in report.claims if claim.claim == "gain" and claim.design == "within_task")
    assert rho.degenerate
    assert rho.absent_reason == reason
