"""Early prediction on experiments whose answer is known."""

import numpy as np
import pytest

from vfmalign.client.messages.checks import Probe
from vfmalign.client.messages.common import Estimate, absent
from vfmalign.finetuning.experiments.analysis.early_prediction import evaluate_early_probes
from vfmalign.finetuning.experiments.analysis.points import make_points


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


def test_few_models_leave_it_undecided(make_cells):
    prediction = evaluate_early_probes(make_points(make_cells(3, 5)), seed=1)
    assert [step.step for step in prediction.steps] == [12, 36]
    assert "cannot be determined" in prediction.sentence
    assert "3 models" in prediction.steps[0].sentence


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
