"""Levels of the tests of an experiment where models keep their order from task to task and nothing is related.

A fast part of `python -m bench.statistics --only experiments`. Outcomes permuted in every task by itself would give a
verdict in about 30 % of these experiments.
"""

import numpy as np
import pytest
from scipy import stats

from vfmalign.analysis.experiments.joint_permutations import JointPermutations, run_joint_permutation_test
from vfmalign.analysis.experiments.predictors import find_largest_correlation
from vfmalign.analysis.experiments.rank_correlation import Stratum

MODELS, TASKS, EXPERIMENTS = 5, 5, 400
PREDICTORS = 7
MODEL_SHARE = 0.7
"""Share of the variance within a task that models keep from task to task."""
MOST_REJECTIONS = stats.binom.ppf(0.9995, EXPERIMENTS, 0.05)
ORDERS = JointPermutations.create(MODELS, seed=1)


def draw(rng, *shape):
    """Numbers of every model in every task (…, models, tasks) with model effects."""
    model, own = rng.standard_normal((*shape, MODELS, 1)), rng.standard_normal((*shape, MODELS, TASKS))
    return np.sqrt(MODEL_SHARE) * model + np.sqrt(1 - MODEL_SHARE) * own


def count_rejections(get_p_value):
    rng = np.random.default_rng(17)
    return sum(get_p_value(rng) <= 0.05 for _ in range(EXPERIMENTS))


def get_claim_p_value(rng):
    shift, gain = draw(rng, 2)
    units = tuple(f"model-{place}" for place in range(MODELS))
    strata = [Stratum(f"task-{task}", units, shift[:, task], gain[:, task]) for task in range(TASKS)]
    return run_joint_permutation_test(strata, sign=-1, seed=1).p_two_sided


def get_p_best(rng):
    return find_largest_correlation(draw(rng, PREDICTORS), draw(rng), ORDERS).p_best


@pytest.mark.parametrize("get_p_value", [get_claim_p_value, get_p_best])
def test_unrelated_numbers_with_model_effects_keep_the_level(get_p_value):
    assert 2 <= count_rejections(get_p_value) <= MOST_REJECTIONS
