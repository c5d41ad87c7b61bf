"""SIGKILLs of one training at random moments cost no attempt and change no number.

Every other one comes soon after a point of the learning curve, the others while the process starts. `FAULT_KILLS` sets
their number, and `FAULT_SEED` the seed of their moments.
"""

from __future__ import annotations

import os
import random
import signal

import pytest
from tests.faults import one_training
from tests.faults.one_training import Training
from tests.integration.training import conftest as training_fixtures
from tests.integration.training.conftest import RECIPE, comparable

KILLS = int(os.environ.get("FAULT_KILLS", "3"))
SEED = int(os.environ.get("FAULT_SEED", "17"))

dataset, model, make_spec = training_fixtures.dataset, training_fixtures.model, training_fixtures.make_spec
finish = training_fixtures.finish
training = one_training.training


@pytest.mark.timeout(600 + 60 * KILLS)
def test_kills_at_random_moments_cost_no_attempt_and_change_no_number(training: Training, make_spec, finish) -> None:
    recipe = RECIPE.model_copy(update={"epochs": 6 + 3 * KILLS, "steps_per_epoch": 1})
    undisturbed = finish(make_spec("undisturbed", recipe=recipe, task="segmentation"))
    name = training.create(make_spec("killed", recipe=recipe, task="segmentation"))
    moments = random.Random(SEED)
    for kill in range(1, KILLS + 1):
        training.until_attempt(name, kill)
        if kill % 2:
            training.until_next_point(name)
            training.work(moments.uniform(0.0, 0.3))
        else:
            training.work(moments.uniform(0.0, 1.0))
        os.kill(training.get(name).handle["pid"], signal.SIGKILL)
    job = training.finish(name)
    assert (job.state, job.setbacks.failures) == ("succeeded", 0), job.failure
    assert training.outcomes(name) == ["interrupted"] * KILLS + ["succeeded"]
    assert job.setbacks.step >= 0, "no checkpoint was written in between"
    assert comparable(training.result(name)) == comparable(undisturbed)
