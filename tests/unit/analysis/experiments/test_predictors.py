"""Predictors on experiments whose answer is known."""

import itertools

import numpy as np
import pytest
from scipy import stats

from vfmalign.analysis.experiments.points import make_points
from vfmalign.analysis.experiments.predictors import compare_predictors
from vfmalign.client.messages.common import Estimate


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
    comparison = compare_predictors(make_points(cells), seed=1)
    assert comparison.best == "cka"
    assert comparison.p_best <= 2 / 120
    assert comparison.p_lead < 0.2
    assert comparison.lead == pytest.approx(
        1 - abs(next(p.rho for p in comparison.predictors if p.name == comparison.runner_up))
    )
    assert 0.2 < comparison.threshold < 0.9
    assert "more than chance" in comparison.sentence
    rhos = {predictor.name: predictor.rho for predictor in comparison.predictors}
    assert rhos["cka"] == pytest.approx(1)
    assert rhos["logme"] is None
    assert compare_predictors(make_points(cells[::-1]), seed=1) == comparison


@pytest.fixture
def random_cells(make_cells, with_numbers):
    """Five models in three tasks with random numbers."""
    rng = np.random.default_rng(8)
    return [
        with_numbers(cell, float(rng.random()), float(rng.random())).model_copy(
            update={
                "shift_ratio": Estimate(value=float(rng.random())),
                "weight_change": float(rng.random()),
                "measures": {"cka": Estimate(value=float(rng.random()))},
            }
        )
        for cell in make_cells(5, 3)
    ]


def get_numbers(cells, get):
    """Numbers of every model in every task, models sorted by name."""
    tasks = sorted({cell.task for cell in cells})
    by_model = {}
    for cell in sorted(cells, key=lambda cell: cell.model_id):
        by_model.setdefault(cell.model_id, {})[cell.task] = get(cell)
    return np.array([[numbers[task] for task in tasks] for numbers in by_model.values()])


def test_p_best_is_the_share_of_orders_with_as_large_a_largest_correlation(random_cells):
    comparison = compare_predictors(make_points(random_cells), seed=1)
    gain = get_numbers(random_cells, lambda cell: cell.gain.value)
    columns = [
        get_numbers(random_cells, get)
        for get in (
            lambda cell: cell.shift.value,
            lambda cell: cell.shift_ratio.value,
            lambda cell: cell.weight_change,
            lambda cell: cell.measures["cka"].value,
        )
    ]

    def get_sizes(order):
        """The |ρ| of all numbers in descending order, with the gains of the models in another order in all tasks."""
        return sorted(
            (
                abs(np.mean([stats.spearmanr(x, y).statistic for x, y in zip(numbers.T, gain[order].T, strict=True)]))
                for numbers in columns
            ),
            reverse=True,
        )

    observed = get_sizes([0, 1, 2, 3, 4])
    sizes = np.array([get_sizes(list(order)) for order in itertools.permutations(range(5))])
    assert comparison.models == 5
    assert comparison.permutations == 120
    assert comparison.lead == pytest.approx(observed[0] - observed[1])
    assert comparison.p_best == pytest.approx((sizes[:, 0] >= observed[0] - 1e-9).mean())
    assert comparison.p_lead == pytest.approx((sizes[:, 0] - sizes[:, 1] >= observed[0] - observed[1] - 1e-9).mean())
    assert comparison.threshold == pytest.approx(np.quantile(sizes[:, 0], 0.95))


def test_predictors_are_compared_over_the_models_that_all_of_them_have(random_cells):
    whole = make_points(random_cells)
    first = random_cells[0]
    cells = [first.model_copy(update={"weight_change": None}), *random_cells[1:]]
    comparison = compare_predictors(make_points(cells), seed=1)
    without = compare_predictors([point for point in whole if point.model_id != first.model_id], seed=1)
    assert comparison.models == 4
    assert [predictor.rho for predictor in comparison.predictors] == [one.rho for one in without.predictors]
    assert comparison.p_best is None
    assert comparison.permutations == 0


def test_a_number_that_exists_in_fewer_tasks_does_not_compete(make_cells):
    predictors = {
        predictor.name: predictor for predictor in compare_predictors(make_points(make_cells(4, 5)), seed=1).predictors
    }
    assert predictors["logme"].rho is not None
    assert not predictors["logme"].competes
    assert predictors["h_score"].rho is not None
    assert predictors["h_score"].expected_sign == 1
    assert predictors["h_score"].absent_reason == "no case labels (4 tasks)"
    assert predictors["cka"].absent_reason == ""
    assert predictors["cka"].competes


def test_fewer_than_five_models_are_too_few_to_determine_the_best_predictor(make_cells):
    comparison = compare_predictors(make_points(make_cells(4, 5)), seed=1)
    assert "4 models with all numbers in every task are too few to determine" in comparison.sentence
    assert comparison.best is not None
    assert comparison.p_best is comparison.p_lead is comparison.threshold is None
