"""Predictors on experiments whose answer is known."""

import numpy as np
import pytest

from vfmalign.client.messages.common import Estimate
from vfmalign.finetuning.experiments.analysis.points import make_points
from vfmalign.finetuning.experiments.analysis.predictors import compare_predictors


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
    assert comparison.p_best < 0.01
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


def test_the_largest_correlation_is_compared_with_the_largest_by_chance(make_cells, with_numbers):
    rng = np.random.default_rng(8)
    cells = make_cells(4, 5)
    p_values = []
    for _ in range(20):
        drawn = [with_numbers(cell, float(rng.random()), float(rng.random())) for cell in cells]
        p_values.append(compare_predictors(make_points(drawn), seed=1).p_best)
    assert sum(p <= 0.05 for p in p_values) <= 5  # 1 expected
    assert np.mean(p_values) > 0.25


def test_a_number_that_exists_in_fewer_tasks_does_not_compete(make_cells):
    predictors = {
        predictor.name: predictor for predictor in compare_predictors(make_points(make_cells(4, 5)), seed=1).predictors
    }
    assert predictors["logme"].rho is not None
    assert not predictors["logme"].competes
    assert predictors["cka"].competes


def test_three_models_are_too_few_to_determine_the_best_predictor(make_cells):
    assert (
        "3 models per task are too few to determine"
        in compare_predictors(make_points(make_cells(3, 5)), seed=1).sentence
    )
