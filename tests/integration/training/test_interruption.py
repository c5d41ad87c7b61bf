"""A job that is killed, terminated, stopped anywhere or run twice at once comes to the undisturbed result."""

import json
import signal
from itertools import pairwise

import pytest
from tests.integration.training.conftest import lasting, wait_for

from vfmalign.core.artifacts import (
    JobResult,
    job_key,
)
from vfmalign.core.errors import Cancelled
from vfmalign.training.stop import Stop


def test_a_killed_job_goes_on_to_the_same_result(store, long_spec, start, undisturbed):
    spec = long_spec("killed")
    process = start("killed")
    wait_for(store, job_key("killed", "progress/0002.json"), process)
    process.send_signal(signal.SIGKILL)
    assert process.wait(60) == -signal.SIGKILL
    assert not store.exists(job_key("killed", "result.json"))
    second = start("killed")
    _, log = second.communicate(timeout=300)
    assert second.returncode == 0, log
    resumed = [json.loads(line) for line in log.splitlines() if '"resumed"' in line]
    assert resumed
    assert resumed[0]["step"] >= 8
    assert lasting(store.read(job_key(spec.id, "result.json"), JobResult)) == lasting(undisturbed)


def test_a_terminated_job_stores_its_step_and_goes_on_to_the_same_result(store, long_spec, start, finish, undisturbed):
    spec = long_spec("terminated")
    process = start("terminated")
    wait_for(store, job_key("terminated", "progress/0001.json"), process)
    process.terminate()
    _, log = process.communicate(timeout=60)
    assert process.returncode == 143, log
    step = store.get_json(job_key("terminated", "checkpoint/latest.json"))["step"]
    assert 4 <= step < 20
    assert not store.exists(job_key("terminated", "failure.json"))
    assert lasting(finish(spec)) == lasting(undisturbed)


class StopAfter(Stop):
    """Stops when it is asked for the n-th time."""

    def __init__(self, times):
        super().__init__()
        self.times = times

    def check(self):
        self.times -= 1
        if self.times < 0:
            self.ask()
        super().check()


def test_a_job_may_be_stopped_at_any_point(store, long_spec, finish, undisturbed):
    """Also while loading, between validation cases and while scoring; each attempt gets a little further."""
    spec, attempts, steps = long_spec("often"), 0, []
    while not store.exists(job_key("often", "result.json")):
        try:
            finish(spec, StopAfter(15 + attempts))
        except Cancelled:
            attempts += 1
            if store.exists(job_key("often", "checkpoint/latest.json")):
                steps.append(store.get_json(job_key("often", "checkpoint/latest.json"))["step"])
    assert attempts >= 4
    assert all(earlier <= later for earlier, later in pairwise(steps))
    assert any(step % 4 for step in steps), "no attempt was stopped within an epoch"
    assert lasting(finish(spec)) == lasting(undisturbed)


def test_two_processes_of_one_job_agree(store, long_spec, start, undisturbed):
    long_spec("twice")
    processes = [start("twice"), start("twice")]
    for process in processes:
        _, log = process.communicate(timeout=300)
        assert process.returncode == 0, log
    result = store.read(job_key("twice", "result.json"), JobResult)
    assert lasting(result) == lasting(undisturbed)
    for figure in result.figures:
        store.get(figure.key, sha256=figure.sha256)


def test_lost_or_foreign_checkpoints_start_the_job_again(store, long_spec, finish, undisturbed):
    spec = long_spec("lost")
    with pytest.raises(Cancelled):
        finish(spec, StopAfter(25))
    latest = store.get_json(job_key("lost", "checkpoint/latest.json"))
    store.delete(latest["state"]["key"])
    with pytest.raises(Cancelled):
        finish(spec, StopAfter(25))
    assert store.get_json(job_key("lost", "checkpoint/latest.json"))["step"] == latest["step"]
    other = spec.model_copy(update={"seed": 99})
    with pytest.raises(Cancelled):
        finish(other, StopAfter(17))
    assert store.get_json(job_key("lost", "checkpoint/latest.json"))["step"] < latest["step"]
    assert lasting(finish(spec)) == lasting(undisturbed)
