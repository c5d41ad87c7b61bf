"""Early prediction on experiments whose answer is known."""

import itertools

import numpy as np
import pytest
from scipy import stats

from vfmalign.analysis.experiments.early_prediction import (
    EarlyNumbers,
    evaluate_early_probes,
    get_p_adds,
    rank_left_out_tasks,
)
from vfmalign.analysis.experiments.joint_permutations import JointPermutations
from vfmalign.analysis.experiments.points import make_points
from vfmalign.client.messages.checks import Probe
from vfmalign.client.messages.common import Estimate, absent


def add_probes(cells, get_probe, steps=(10,)):
    """Cells with probes; `get_probe` returns shift and score."""
    rng = np.random.default_rng(3)
    return [
        cell.model_copy(
            update={"probes": tuple(
                Probe(step=step, shift=Estimate(value=float(shift)), validation_score=float(score))
                for step in steps
                for shift, score in [get_probe(cell, rng)]
            )}
        )
        for cell in cells
    ]  # fmt: skip


@pytest.fixture
def cells_with_random_gains(make_cells, with_numbers):
    rng = np.random.default_rng(6)
    return [with_numbers(cell, gain=float(rng.normal())) for cell in make_cells(6, 5)]


def test_mmd_improves_the_prediction_where_it_alone_knows_the_gain(cells_with_random_gains):
    prediction = evaluate_early_probes(
        make_points(add_probes(cells_with_random_gains, lambda c, rng: (-c.gain.value, rng.normal()))), seed=1
    )
    (step,) = prediction.steps
    assert step.rho_shift == pytest.approx(1)
    assert step.rho_both > 0.8
    assert step.p_adds < 0.01
    assert "MMD² improved" in prediction.sentence


def test_mmd_adds_nothing_where_the_score_determines_the_gain(cells_with_random_gains):
    prediction = evaluate_early_probes(
        make_points(add_probes(cells_with_random_gains, lambda c, rng: (rng.normal(), 3 * c.gain.value))), seed=1
    )
    (step,) = prediction.steps
    assert step.rho_score == pytest.approx(1)
    assert step.p_adds > 0.05
    assert "at no step" in prediction.sentence


def test_a_shift_that_repeats_the_score_does_not_appear_to_add(make_cells, with_numbers):
    rng = np.random.default_rng(9)
    cells = make_cells(5, 5)
    added = 0
    for _ in range(40):
        drawn = [with_numbers(cell, gain=float(rng.normal())) for cell in cells]

        def repeat(cell, _):
            score = cell.gain.value + rng.normal()
            return -score + 0.5 * rng.normal(), score

        added += "MMD² improved" in evaluate_early_probes(make_points(add_probes(drawn, repeat)), seed=1).sentence
    assert added <= 7  # 2 expected


def test_the_line_is_fitted_on_the_other_tasks(cells_with_random_gains):
    """In the task left out the shift has the other sign, so that the line of the others ranks it upside down."""
    tasks = sorted({cell.task for cell in cells_with_random_gains})
    reversed_task = add_probes(
        cells_with_random_gains, lambda c, rng: (c.gain.value * (1 if c.task == tasks[0] else -1), 0.0)
    )
    (step,) = evaluate_early_probes(make_points(reversed_task), seed=1).steps
    assert step.rho_shift == pytest.approx((4 * 1 - 1) / 5)
    assert step.rho_score == 0.0


def test_scores_where_lower_is_better_are_negated(cells_with_random_gains):
    lower = [
        c.model_copy(update={"metric": c.metric.model_copy(update={"higher_is_better": False})})
        for c in cells_with_random_gains
    ]
    mixed = [a if a.task == "segmentation" else b for a, b in zip(lower, cells_with_random_gains, strict=True)]
    sign = {True: 1, False: -1}
    prediction = evaluate_early_probes(
        make_points(add_probes(mixed, lambda c, r: (0.0, sign[c.metric.higher_is_better] * c.gain.value))), seed=1
    )
    assert prediction.steps[0].rho_score == pytest.approx(1)


def standardise(value):
    return (value - value.mean()) / value.std()


def rank_left_out_by_hand(columns, gains):
    """Mean ρ over the tasks left out; `columns` holds the predictors of each task (models, predictors)."""
    rhos = []
    for task in range(len(gains)):
        others = [other for other in range(len(gains)) if other != task]
        slopes, *_ = np.linalg.lstsq(
            np.concatenate([columns[other] for other in others]), np.concatenate([gains[other] for other in others])
        )
        rhos.append(stats.spearmanr(columns[task] @ slopes, gains[task]).statistic)
    return np.mean(rhos)


def test_predictions_and_p_adds_are_those_of_a_plain_computation():
    rng = np.random.default_rng(12)
    models, tasks = 5, 3
    shift, noise, own = rng.standard_normal((3, models, tasks))
    score = shift + noise
    gain = score - 0.5 * shift + own
    numbers = EarlyNumbers(shift, score, gain)
    shifts, scores, gains = ([standardise(column) for column in side.T] for side in (shift, score, gain))

    def rank_both(shifts):
        return rank_left_out_by_hand([np.stack(pair, axis=1) for pair in zip(shifts, scores, strict=True)], gains)

    observed = rank_both(shifts)
    assert rank_left_out_tasks(numbers) == pytest.approx(
        (
            rank_left_out_by_hand([one[:, np.newaxis] for one in shifts], gains),
            rank_left_out_by_hand([one[:, np.newaxis] for one in scores], gains),
            observed,
        )
    )
    slope, *_ = np.linalg.lstsq(np.concatenate(scores)[:, np.newaxis], np.concatenate(shifts))
    fitted = [slope[0] * one for one in scores]
    residuals = [one - fit for one, fit in zip(shifts, fitted, strict=True)]
    chance = [
        rank_both([fit + residual[list(order)] for fit, residual in zip(fitted, residuals, strict=True)])
        for order in itertools.permutations(range(models))
    ]
    p_adds = get_p_adds(numbers, JointPermutations.create(models, seed=1))
    assert p_adds == pytest.approx(np.mean(np.array(chance) >= observed - 1e-9))
    assert 0.01 < p_adds < 0.99


def test_a_shift_that_is_the_score_adds_nothing():
    score, gain = np.random.default_rng(13).standard_normal((2, 5, 4))
    numbers = EarlyNumbers(3.0 - 2.0 * score, score, gain)
    _, alone, both = rank_left_out_tasks(numbers)
    assert both == pytest.approx(alone)
    assert get_p_adds(numbers, JointPermutations.create(5, seed=1)) == 1.0


def test_models_without_a_probe_in_one_task_are_left_out(cells_with_random_gains):
    cells = add_probes(cells_with_random_gains, lambda c, rng: (-c.gain.value, rng.normal()))
    whole = evaluate_early_probes(make_points([cell for cell in cells if cell.model_id != cells[0].model_id]), seed=1)
    cells[0] = cells[0].model_copy(update={"probes": ()})
    step = evaluate_early_probes(make_points(cells), seed=1).steps[0]
    assert step == whole.steps[0]
    assert step.models == 5
    assert step.p_adds <= 0.05


def test_few_models_leave_it_undecided(make_cells):
    prediction = evaluate_early_probes(make_points(make_cells(3, 5)), seed=1)
    assert [step.step for step in prediction.steps] == [12, 36]
    assert "cannot be determined" in prediction.sentence
    assert "3 models" in prediction.steps[0].sentence
    assert prediction.steps[0].rho_both is not None
    assert prediction.steps[0].p_adds is None
    assert evaluate_early_probes(make_points(make_cells(4, 5)), seed=1).steps[0].p_adds is None


def test_without_probes_or_tasks_there_is_no_prediction(make_cells):
    assert (
        evaluate_early_probes(make_points(make_cells(4, 5, probes=False)), seed=1).sentence
        == "no training was probed early"
    )
    assert "needs two" in evaluate_early_probes(make_points(make_cells(4, 1)), seed=1).steps[0].sentence
    absent_shift = [
        c.model_copy(update={"probes": (Probe(step=1, shift=absent("x"), validation_score=0.0),)})
        for c in make_cells(4, 5)
    ]
    assert evaluate_early_probes(make_points(absent_shift), seed=1).steps[0].rho_shift is None
