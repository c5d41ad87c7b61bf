"""Objectives, predictors and early probes on experiments whose answer is known."""

import numpy as np
import pytest

from vfmalign.finetuning.analysis.estimates import Estimate, absent
from vfmalign.finetuning.analysis.records import Probe
from vfmalign.finetuning.experiments.analysis.early_prediction import look_early
from vfmalign.finetuning.experiments.analysis.objectives import compare_objectives, count_signs
from vfmalign.finetuning.experiments.analysis.points import points_of
from vfmalign.finetuning.experiments.analysis.predictors import compare_predictors


def test_objectives_are_compared_within_one_architecture_alone(make_cells):
    (pair,) = compare_objectives(points_of(make_cells(4, 5)))
    assert (pair.masked, pair.contrastive) == ("profound-tiny-mae", "profound-tiny-contrastive")
    assert len(pair.rows) == 5
    assert compare_objectives(points_of([c for c in make_cells(4, 5) if c.model != pair.masked])) == ()


def test_differences_are_masked_less_contrastive(make_cells, with_numbers):
    numbers = {"profound-tiny-mae": (0.1, 8.0, 0.25), "profound-tiny-contrastive": (0.3, 5.0, 0.5)}
    cells = [with_numbers(cell, *numbers[cell.model]) for cell in make_cells(2, 5)]
    cells[0] = with_numbers(cells[0], None, None, np.inf)
    (pair,) = compare_objectives(points_of(cells))
    row = pair.rows[0]
    assert (row.shift, row.gain, row.convergence) == pytest.approx((-0.2, 3.0, -0.25))
    assert (pair.shift.above, pair.shift.below, pair.shift.ties) == (0, 4, 0)
    assert (pair.convergence.below, pair.gain.above) == (4, 4)
    assert (pair.less_moved_gained_more, pair.both_known) == (4, 4)
    assert pair.gain.p_value.value is None
    assert "at least 6" in pair.gain.p_value.absent_reason


def test_sign_test_is_exact():
    assert count_signs([1.0] * 6).p_value.value == pytest.approx(2 * 0.5**6)
    assert count_signs([1.0] * 5 + [-1.0, 0.0, None]).p_value.value == pytest.approx(2 * 7 * 0.5**6)
    assert count_signs([1.0] * 5 + [0.0]).p_value.value is None


def test_the_number_that_orders_every_task_wins(make_cells, with_numbers):
    rng = np.random.default_rng(2)
    cells = []
    for cell in make_cells(5, 5):
        gain = float(rng.random())
        noise = {"measures": {"cka": Estimate(value=gain), "energy": Estimate(value=float(rng.random()))}}
        cells.append(
            with_numbers(cell, float(rng.random()), gain).model_copy(
                update=noise
                | {"weight_change": float(rng.random()), "shift_ratio": Estimate(value=float(rng.random()))}
            )
        )
    found = compare_predictors(points_of(cells), seed=1)
    assert found.best == "cka"
    assert found.p_best < 0.01
    assert found.p_lead < 0.2
    assert found.lead == pytest.approx(1 - abs(next(p.rho for p in found.predictors if p.name == found.runner_up)))
    assert 0.2 < found.threshold < 0.9
    assert "more than chance" in found.sentence
    rhos = {one.name: one.rho for one in found.predictors}
    assert rhos["cka"] == pytest.approx(1)
    assert rhos["logme"] is None
    assert compare_predictors(points_of(cells[::-1]), seed=1) == found


def test_the_largest_of_many_is_held_against_the_largest_of_many(make_cells, with_numbers):
    rng = np.random.default_rng(8)
    cells = make_cells(4, 5)
    p_values = []
    for _ in range(20):
        drawn = [with_numbers(cell, float(rng.random()), float(rng.random())) for cell in cells]
        p_values.append(compare_predictors(points_of(drawn), seed=1).p_best)
    assert sum(p <= 0.05 for p in p_values) <= 5  # 1 expected
    assert np.mean(p_values) > 0.25


def test_a_number_of_fewer_tasks_does_not_compete(make_cells):
    found = {one.name: one for one in compare_predictors(points_of(make_cells(4, 5)), seed=1).predictors}
    assert found["logme"].rho is not None
    assert not found["logme"].competes
    assert found["cka"].competes


def test_three_models_do_not_tell_which_predicts_best(make_cells):
    assert "3 models per task it cannot be told" in compare_predictors(points_of(make_cells(3, 5)), seed=1).sentence


def probed(cells, of, steps=(10,)):
    """Cells with probes of which `of` gives shift and score."""
    rng = np.random.default_rng(3)
    return [
        cell.model_copy(
            update={"probes": tuple(
                Probe(step=step, shift=Estimate(value=float(shift)), val_score=float(score))
                for step in steps
                for shift, score in [of(cell, rng)]
            )}
        )
        for cell in cells
    ]  # fmt: skip


@pytest.fixture
def gained(make_cells, with_numbers):
    rng = np.random.default_rng(6)
    return [with_numbers(cell, gain=float(rng.normal())) for cell in make_cells(6, 5)]


def test_mmd_adds_where_it_alone_knows_the_gain(gained):
    found = look_early(points_of(probed(gained, lambda c, rng: (-c.gain.value, rng.normal()))), seed=1)
    (step,) = found.steps
    assert step.rho_shift == pytest.approx(1)
    assert step.rho_both > 0.8
    assert step.p_adds < 0.01
    assert "MMD² added to" in found.sentence


def test_mmd_adds_nothing_where_the_score_says_all(gained):
    found = look_early(points_of(probed(gained, lambda c, rng: (rng.normal(), 3 * c.gain.value))), seed=1)
    (step,) = found.steps
    assert step.rho_score == pytest.approx(1)
    assert step.p_adds > 0.05
    assert "at no step" in found.sentence


def test_a_shift_that_repeats_the_score_does_not_seem_to_add(make_cells, with_numbers):
    rng = np.random.default_rng(9)
    cells = make_cells(5, 5)
    added = 0
    for _ in range(40):
        drawn = [with_numbers(cell, gain=float(rng.normal())) for cell in cells]

        def repeat(cell, _):
            score = cell.gain.value + rng.normal()
            return -score + 0.5 * rng.normal(), score

        added += "MMD² added" in look_early(points_of(probed(drawn, repeat)), seed=1).sentence
    assert added <= 7  # 2 expected


def test_the_line_is_fitted_on_the_other_tasks(gained):
    """In the task left out the shift has the other sign, so that what the others teach ranks it upside down."""
    tasks = sorted({cell.task for cell in gained})
    turned = probed(gained, lambda c, rng: (c.gain.value * (1 if c.task == tasks[0] else -1), 0.0))
    (step,) = look_early(points_of(turned), seed=1).steps
    assert step.rho_shift == pytest.approx((4 * 1 - 1) / 5)
    assert step.rho_score == 0.0


def test_a_lower_score_is_turned(gained):
    lower = [c.model_copy(update={"metric": c.metric.model_copy(update={"higher_is_better": False})}) for c in gained]
    mixed = [a if a.task == "segmentation" else b for a, b in zip(lower, gained, strict=True)]
    sign = {True: 1, False: -1}
    found = look_early(
        points_of(probed(mixed, lambda c, r: (0.0, sign[c.metric.higher_is_better] * c.gain.value))), seed=1
    )
    assert found.steps[0].rho_score == pytest.approx(1)


def test_few_models_cannot_tell(make_cells):
    found = look_early(points_of(make_cells(3, 5)), seed=1)
    assert [one.step for one in found.steps] == [12, 36]
    assert "cannot be told" in found.sentence
    assert "3 models" in found.steps[0].sentence


def test_without_probes_or_tasks_nothing_is_told(make_cells):
    assert look_early(points_of(make_cells(4, 5, probes=False)), seed=1).sentence == "no training was probed early"
    assert "needs two" in look_early(points_of(make_cells(4, 1)), seed=1).steps[0].sentence
    absent_shift = [
        c.model_copy(update={"probes": (Probe(step=1, shift=absent("x"), val_score=0.0),)}) for c in make_cells(4, 5)
    ]
    assert look_early(points_of(absent_shift), seed=1).steps[0].rho_shift is None
