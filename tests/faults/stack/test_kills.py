"""kill -9 of each process during a check: after each restart the check goes on, to the undisturbed result."""

from __future__ import annotations

import os
import signal
from typing import Any

import psutil
import pytest
from google.protobuf.json_format import MessageToDict

pytestmark = pytest.mark.e2e

# What names the check or tells the time; everything else of a result must be the same.
OWN = {"reportJson", "reportHtml", "elapsedSeconds", "software"}


def numbers(value: Any) -> Any:
    """A result without what belongs to one run."""
    if isinstance(value, dict):
        return {name: numbers(inner) for name, inner in value.items() if name not in OWN}
    if isinstance(value, list):
        return [numbers(inner) for inner in value]
    return value


def same_numbers(check: Any, other: Any) -> bool:
    """Whether two checks found exactly the same."""
    return numbers(MessageToDict(check.result)) == numbers(MessageToDict(other.result))


def finished_once(check: Any) -> None:
    """No stage that had finished ran again: only what a kill interrupted was begun twice."""
    again = [stage.name for stage in check.stages if stage.attempts > 1]
    assert all(stage.attempts >= 1 for stage in check.stages)
    assert len(again) <= 3, again  # the stages of three jobs


def forget_features(world: Any) -> None:
    """Deletes every feature set, so that the next check extracts its own."""
    for key in list(world.store.list("features/")):
        world.store.delete(key)


def training_processes(check_id: str) -> list[psutil.Process]:
    """Processes that run jobs of a check."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(f"/jobs/{check_id}-" in word for word in process.info["cmdline"] or [])
    ]


def test_every_process_is_killed_once(world: Any, undisturbed: Any) -> None:
    """One check, during which the features, its training, the orchestrator and the MMD service are killed."""
    forget_features(world)
    check_id = "killed"
    world.create(check_id)
    world.wait_for(check_id, lambda check: check.progress.phase.startswith("features") and check.progress.done)
    os.kill(world.pid("features"), signal.SIGKILL)

    world.wait_for(check_id, lambda check: check.progress.unit == "epoch" and check.progress.done >= 2)
    (victim,) = training_processes(check_id)
    victim.kill()
    check = world.wait_for(check_id, lambda _: victim not in (running := training_processes(check_id)) and running)
    attempts = [stage.attempts for stage in check.stages if stage.name == "job_pretrained"]
    assert attempts == [1], "a job's second attempt is not the stage's"

    (training,) = training_processes(check_id)
    os.kill(world.pid("finetuning"), signal.SIGKILL)
    world.wait_for(check_id, lambda check: check.progress.unit == "epoch")
    running = [process.pid for process in training_processes(check_id)]
    assert running in ([training.pid], []), "the job was doubled"
    # Killed before it is needed, so that the check surely meets its absence.
    world.wait_for(check_id, lambda check: any(stage.name == "features_after" for stage in _begun(check)))
    os.kill(world.pid("mmd"), signal.SIGKILL)
    check = world.finish(check_id)
    assert same_numbers(check, undisturbed)
    finished_once(check)
    jobs = [world.jobs.GetJob(_job(job)).job for job in check.job_ids]
    assert [job.attempts for job in jobs] == [2, 0, 0], "the running job was not adopted"
    assert all(job.progress.detail.startswith("taken from job ") for job in jobs[1:]), (
        "its baselines are the undisturbed ones"
    )
    assert any("mmd" in sentence for sentence in world.events)


def _begun(check: Any) -> list[Any]:
    return [stage for stage in check.stages if stage.attempts]


def _job(job_id: str) -> Any:
    from vfmalign.v1 import finetuning_pb2

    return finetuning_pb2.GetJobRequest(job_id=job_id)
