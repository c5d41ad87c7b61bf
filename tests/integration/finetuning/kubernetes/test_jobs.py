"""Jobs through the supervisor on a cluster: a real S3 server and database, the API over HTTP. The test is the pod."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.finetuning.kubernetes.emulator import JOBS, Api, until

from vfmalign.client.messages.jobs import JobSpec
from vfmalign.core.domain.jobs import JobFailure, JobProgress, JobResult, MetricSpec, TrainingRecipe, TrainingSpec
from vfmalign.core.storage.keys import job_key
from vfmalign.core.storage.object_store import ObjectStore
from vfmalign.finetuning.db.database import Database
from vfmalign.finetuning.jobs.repository import Job, JobRepository
from vfmalign.finetuning.jobs.retries import Limits, Setbacks
from vfmalign.finetuning.jobs.supervisor import Supervisor
from vfmalign.finetuning.launchers.kubernetes.manifest import job_name


def result_of(job: str) -> JobResult:
    """The least that a job leaves."""
    metric = MetricSpec(name="m", unit="", higher_is_better=True, floor=0.1)
    return JobResult(
        job=job, metrics=(metric,), primary_metric="m", curve=(), selected_epoch=0, selected_step=0, test_scores=(),
        weight_change=None, parameters=1, device="cpu", stage_seconds={}, software={},
    )  # fmt: skip


class World:
    """Supervisors over one store, database and cluster."""

    def __init__(self, jobs: JobRepository, store: ObjectStore, api: Api, make: Callable[..., Any]) -> None:
        self.jobs, self.store, self.api, self._make = jobs, store, api, make
        self.prefix = uuid.uuid4().hex[:8]

    def supervisor(self, **options: Any) -> Supervisor:
        """An orchestrator that has just started."""
        limits = Limits(max_running=4, retry_delay_s=0.0, stop_grace_s=options.pop("stop_grace_s", 60.0))
        return Supervisor(self.jobs, self.store, self._make(**options), limits)

    def add(self, name: str) -> str:
        """A job that is asked for."""
        recipe = TrainingRecipe(epochs=2, steps_per_epoch=1, batch_size=1, learning_rate=0.1)
        spec = TrainingSpec(
            id=f"{self.prefix}-{name}", kind="finetune", dataset="d", dataset_digest="0" * 64, architecture="a", seed=1,
            recipe=recipe,
        )  # fmt: skip
        request = JobSpec(kind="finetune", dataset_id="d", model_id="m", task="segmentation", seed=1)
        return self.jobs.create(request, spec).id

    def started(self, supervisor: Supervisor, name: str) -> str:
        """The name of the Job that a new job got."""
        supervisor.reconcile()
        job = self.jobs.get(name)
        assert job.state == "running", job.progress.detail
        return job_name(name, job.attempts)

    def until(self, supervisor: Supervisor, name: str, condition: Callable[[Job], Any]) -> Job:
        """The job once a condition holds."""

        def look() -> Job | None:
            supervisor.reconcile()
            return job if condition(job := self.jobs.get(name)) else None

        return until(look)

    def finish(self, supervisor: Supervisor, name: str) -> Job:
        """The job once it has ended."""
        return self.until(supervisor, name, lambda job: job.finished)

    def write_result(self, job: str) -> None:
        """What a pod leaves."""
        point = JobProgress(epoch=0, epochs=1, step=0, steps=1, train_loss=None, val_score=0.1, elapsed_s=1.0)
        self.store.write(job_key(job, "progress/0000.json"), point)
        self.store.write(job_key(job, "result.json"), result_of(job))

    def fail_pod(self, name: str, code: int, reason: str = "Error") -> None:
        """Its pod ends, and the Job with it."""
        end = {"name": "training", "state": {"terminated": {"exitCode": code, "reason": reason}}}
        self.api.pod(name, {"phase": "Failed", "containerStatuses": [end]})
        self.api.condition(name, "Failed", "BackoffLimitExceeded")

    def outcomes(self, name: str) -> list[tuple[int | None, str]]:
        """What became of every attempt."""
        return [(attempt.exit_code, attempt.outcome) for attempt in self.jobs.attempts(name)]


@pytest.fixture
def world(tmp_path: Path, store: ObjectStore, api: Api, make: Callable[..., Any]) -> Iterator[World]:
    """A cluster, a bucket and a database."""
    database = Database(f"sqlite:///{tmp_path / 'jobs.db'}")
    database.migrate()
    yield World(JobRepository(database), store, api, make)
    database.close()


def test_a_job_runs_to_its_result(world: World) -> None:
    supervisor, name = world.supervisor(), world.add("plain")
    job = world.started(supervisor, name)
    assert world.api.job(job)["metadata"]["annotations"]["vfmalign.io/spec"].endswith(f"/jobs/{name}/spec.json")
    world.api.status(job, active=1, ready=1)
    world.until(supervisor, name, lambda one: one.progress.detail == "training, attempt 1")
    world.write_result(name)
    world.api.condition(job, "Complete")
    ended = world.finish(supervisor, name)
    assert (ended.state, len(ended.curve)) == ("succeeded", 1)
    assert world.outcomes(name) == [(0, "succeeded")]


def test_why_a_pod_waits_is_in_the_job_s_status(world: World) -> None:
    supervisor, name = world.supervisor(), world.add("waits")
    job = world.started(supervisor, name)
    state = {
        "type": "PodScheduled",
        "status": "False",
        "message": "0/2 nodes are available: 2 Insufficient nvidia.com/gpu.",
    }
    world.api.pod(job, {"phase": "Pending", "conditions": [state]})
    found = world.until(supervisor, name, lambda one: "Insufficient" in one.progress.detail)
    assert found.progress.reason == "UNSCHEDULABLE"
    assert found.progress.detail.startswith("attempt 1: its pod fits no node (0/2 nodes are available: 2 Insufficient")
    assert found.state == "running"


@pytest.mark.parametrize(
    ("code", "outcome"), [(75, "retryable"), (139, "retryable"), (137, "interrupted"), (143, "interrupted")]
)
def test_a_retryable_end_is_one_more_attempt_of_the_supervisor_s(world: World, code: int, outcome: str) -> None:
    supervisor, name = world.supervisor(), world.add("retry")
    world.fail_pod(world.started(supervisor, name), code)
    world.until(supervisor, name, lambda one: one.attempts == 2)
    assert sorted(world.api.jobs()) == [job_name(name, 1), job_name(name, 2)]
    world.write_result(name)
    world.api.condition(job_name(name, 2), "Complete")
    assert world.finish(supervisor, name).state == "succeeded"
    assert world.outcomes(name) == [(code, outcome), (0, "succeeded")]


def test_memory_that_runs_out_is_named(world: World) -> None:
    supervisor, name = world.supervisor(), world.add("memory")
    for attempt in (1, 2, 3):
        world.until(supervisor, name, lambda one, attempt=attempt: one.attempts == attempt and one.state == "running")
        world.fail_pod(job_name(name, attempt), 137, "OOMKilled")
    job = world.finish(supervisor, name)
    assert (job.state, job.failure.reason) == ("failed", "JOB_GIVEN_UP")
    assert "(OOMKilled)" in job.progress.detail


@pytest.mark.parametrize("code", [1, 2, 3])
def test_a_final_end_is_not_tried_again(world: World, code: int) -> None:
    supervisor, name = world.supervisor(), world.add("final")
    job = world.started(supervisor, name)
    failure = JobFailure(exit_code=code, reason="BAD_DATASET", message="holds no case", remedy="add one")
    world.store.write(job_key(name, "failure.json"), failure)
    world.fail_pod(job, code)
    ended = world.finish(supervisor, name)
    assert (ended.state, ended.failure.reason, ended.progress.detail) == (
        "failed",
        "BAD_DATASET",
        "holds no case; add one",
    )
    assert world.api.jobs() == [job]


def test_a_deadline_is_not_met_again(world: World) -> None:
    supervisor, name = world.supervisor(), world.add("long")
    job = world.started(supervisor, name)
    world.api.condition(job, "Failed", "DeadlineExceeded", "Job was active longer than specified deadline")
    ended = world.finish(supervisor, name)
    assert (ended.state, ended.failure.reason) == ("failed", "DEADLINE_EXCEEDED")
    assert world.api.jobs() == [job]


def test_a_node_that_is_taken_from_several_pods_does_not_count(world: World) -> None:
    supervisor, name = world.supervisor(nodes=2), world.add("preempted")
    job = world.started(supervisor, name)
    lost = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler", "message": "preempted"}
    world.api.pod(job, {"phase": "Failed", "conditions": [lost]})
    world.api.condition(job, "Failed", "PodFailurePolicy")
    again = world.until(supervisor, name, lambda one: one.attempts == 2)
    assert again.setbacks == Setbacks(interruptions=1)
    assert world.outcomes(name)[0][1] == "interrupted"


@pytest.mark.parametrize("seen", [True, False])
def test_a_drained_pod_of_several_does_not_count_although_it_is_gone_and_the_others_failed(
    world: World, seen: bool
) -> None:
    """The API removes an evicted pod as soon as it has ended, maybe before the orchestrator looks."""
    supervisor, name = world.supervisor(nodes=2), world.add("drained")
    job = world.started(supervisor, name)
    evicted = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": "drain"}
    world.api.pod(job, {"phase": "Running", "conditions": [evicted]}, f"{job}-0")
    lost = {"name": "training", "state": {"terminated": {"exitCode": 76, "reason": "Error"}}}
    world.api.pod(job, {"phase": "Failed", "containerStatuses": [lost]}, f"{job}-1")
    if seen:
        world.api.condition(job, "Failed", "BackoffLimitExceeded")
        world.until(supervisor, name, lambda one: "last pods are ending" in one.progress.detail)
        world.api.remove_pod(f"{job}-0")
    else:
        world.api.remove_pod(f"{job}-0")
        world.api.condition(job, "Failed", "BackoffLimitExceeded")
    again = world.until(supervisor, name, lambda one: one.attempts == 2)
    assert again.setbacks == Setbacks(interruptions=1)
    assert world.outcomes(name)[0] == (76, "interrupted")


# --- what is gone ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("watched", [True, False])
def test_a_finished_job_never_comes_back_after_its_time(world: World, watched: bool) -> None:
    """Result and removal come while the orchestrator looks on, or while there is none."""
    supervisor, name = world.supervisor(), world.add("ttl")
    job = world.started(supervisor, name)
    world.write_result(name)
    world.api.remove(job)
    supervisor = supervisor if watched else world.supervisor()
    assert world.finish(supervisor, name).state == "succeeded"
    for _ in range(3):
        world.supervisor().reconcile()
    assert world.api.jobs() == []
    assert len(world.api.requests("POST")) == 1


def test_a_failed_job_never_comes_back_after_its_time(world: World) -> None:
    supervisor, name = world.supervisor(), world.add("ttl-failed")
    job = world.started(supervisor, name)
    world.store.write(
        job_key(name, "failure.json"), JobFailure(exit_code=3, reason="BAD_VOLUME", message="not a volume")
    )
    world.api.remove(job)
    assert world.finish(world.supervisor(), name).failure.reason == "BAD_VOLUME"
    assert len(world.api.requests("POST")) == 1


def test_a_job_that_vanished_without_a_result_goes_on_as_another_attempt(world: World) -> None:
    supervisor, name = world.supervisor(), world.add("vanished")
    world.api.remove(world.started(supervisor, name))
    job = world.until(supervisor, name, lambda one: one.attempts == 2)
    assert job.setbacks == Setbacks(interruptions=1)
    assert world.api.jobs() == [job_name(name, 2)], "an attempt that ran is never made again"


# --- the orchestrator and the API come and go -------------------------------------------------------------------------


def test_an_orchestrator_that_died_before_it_wrote_down_what_it_made(world: World) -> None:
    first, name = world.supervisor(), world.add("orphan")
    record = world.jobs.record
    world.jobs.record = lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        first.reconcile()
    world.jobs.record = record  # type: ignore[method-assign]
    assert world.jobs.get(name).handle is None
    second = world.supervisor()
    world.until(second, name, lambda one: one.handle == {"name": job_name(name, 1)})
    world.write_result(name)
    world.api.condition(job_name(name, 1), "Complete")
    assert world.finish(second, name).state == "succeeded"
    assert len(world.api.requests("POST")) == 1


def test_an_orchestrator_that_died_before_it_made_anything(world: World) -> None:
    first, name = world.supervisor(), world.add("unborn")
    first.launcher.launch = lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        first.reconcile()
    job = world.until(world.supervisor(), name, lambda one: one.handle is not None)
    assert (job.attempts, job.setbacks.failures) == (2, 0)
    assert world.api.jobs() == [job_name(name, 2)]


@pytest.mark.parametrize("done", [True, False])
def test_an_answer_that_is_lost_neither_loses_nor_doubles_the_job(world: World, done: bool) -> None:
    supervisor, name = world.supervisor(), world.add("lost")
    world.api.lose_answer("POST", "/jobs", do=done)
    job = world.until(supervisor, name, lambda one: one.handle is not None)
    assert job.setbacks.failures == 0
    assert world.api.jobs() == [job_name(name, 1 if done else 2)]


def test_an_api_that_is_away_delays_jobs_and_loses_none(world: World) -> None:
    supervisor, name = world.supervisor(), world.add("patient")
    world.api.down()
    for _ in range(3):
        supervisor.reconcile()
    job = world.jobs.get(name)
    assert (job.state, job.attempts, job.setbacks) == ("queued", 0, Setbacks())
    assert "cannot be reached" in job.progress.detail
    world.api.up()
    assert world.until(supervisor, name, lambda one: one.state == "running").attempts == 1


def test_a_missing_template_is_waited_for(world: World) -> None:
    supervisor, name = world.supervisor(template="later"), world.add("template")
    supervisor.reconcile()
    job = world.jobs.get(name)
    assert (job.state, job.attempts) == ("queued", 0)
    assert "holds no PodTemplate later" in job.progress.detail


def test_a_name_that_is_taken_fails_the_job(world: World) -> None:
    name = world.add("taken")
    metadata = {"name": job_name(name, 1), "annotations": {"vfmalign.io/job-id": "another"}}
    world.api.add(JOBS, {"metadata": metadata, "spec": {}})
    job = world.finish(world.supervisor(), name)
    assert (job.state, job.failure.reason) == ("failed", "ALREADY_EXISTS")


# --- stopping -------------------------------------------------------------------------------------------------------


def test_cancel_suspends_and_keeps_the_job(world: World) -> None:
    supervisor, name = world.supervisor(), world.add("cancel")
    job = world.started(supervisor, name)
    world.jobs.cancel(name)
    supervisor.reconcile()
    assert world.api.job(job)["spec"]["suspend"] is True
    world.api.condition(job, "Suspended")
    assert world.finish(supervisor, name).state == "cancelled"
    assert world.outcomes(name) == [(143, "cancelled")]
    assert world.api.jobs() == [job]


def test_cancel_deletes_a_job_that_does_not_end(world: World) -> None:
    supervisor, name = world.supervisor(stop_grace_s=0.05), world.add("deaf")
    job = world.started(supervisor, name)
    world.jobs.cancel(name)
    assert world.finish(supervisor, name).state == "cancelled"
    assert world.api.jobs() == []
    assert len(world.api.requests("PATCH", job)) == 1


def test_a_service_that_ends_with_its_jobs_resumes_them(world: World) -> None:
    supervisor, name = world.supervisor(stop_grace_s=0.05), world.add("service")
    world.started(supervisor, name)
    supervisor.stop_all(poll_s=0.01)
    job = world.jobs.get(name)
    assert (job.state, job.setbacks) == ("queued", Setbacks())
    assert world.until(world.supervisor(), name, lambda one: one.state == "running").attempts == 2
