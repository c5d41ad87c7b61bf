"""A store that refuses connections during a training costs no attempt and changes no number."""

from __future__ import annotations

import psutil
from tests.faults import one_training
from tests.faults.one_training import Storage, Training
from tests.integration.training import conftest as training_fixtures
from tests.integration.training.conftest import RECIPE, comparable

dataset, model, make_spec = training_fixtures.dataset, training_fixtures.model, training_fixtures.make_spec
finish = training_fixtures.finish
storage, s3, training = one_training.storage, one_training.s3, one_training.training


def has_ended(process: psutil.Process) -> bool:
    """Whether a process has ended; its parent may have read its exit code already."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_store_that_refuses_connections_costs_no_attempt(
    storage: Storage, training: Training, make_spec, finish
) -> None:
    recipe = RECIPE.model_copy(update={"epochs": 6, "steps_per_epoch": 1})
    undisturbed = finish(make_spec("undisturbed", recipe=recipe, task="segmentation"))
    name = training.create(make_spec("cut-off", recipe=recipe, task="segmentation"))
    process = psutil.Process(training.until(name, lambda job: len(job.curve) >= 2).handle["pid"])
    storage.stop()
    waiting = training.until(name, lambda job: job.progress.reason)
    assert waiting.progress.reason == "STORE_UNAVAILABLE"
    assert "the object store does not answer" in waiting.progress.detail
    training.until(name, lambda job: has_ended(process))
    still = training.get(name)
    assert (still.state, still.progress.reason) == ("running", "STORE_UNAVAILABLE")
    storage.start()
    queued = training.until(name, lambda job: job.state == "queued")
    assert queued.progress.reason == "STORE_UNAVAILABLE"
    assert (queued.setbacks.outages, queued.setbacks.failures, queued.setbacks.interruptions) == (1, 0, 0)
    assert queued.setbacks.step > 0
    job = training.finish(name)
    assert job.state == "succeeded", job.failure
    assert training.outcomes(name) == ["unavailable", "succeeded"]
    assert comparable(training.result(name)) == comparable(undisturbed)
