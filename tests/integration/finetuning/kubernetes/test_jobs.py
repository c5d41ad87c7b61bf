"""Jobs through the supervisor on a cluster: a real S3 server and database, the API over HTTP. The test is the pod."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs
from tests.integration.finetuning.kubernetes.emulator import JOBS
from tests.integration.finetuning.kubernetes.world import World

from vfmalign.core.domain.jobs import JobFailure
from vfmalign.core.storage.keys import job_key
from vfmalign.finetuning.jobs.retries import Setbacks
from vfmalign.finetuning.launchers.kubernetes.manifest import job_name


def test_a_job_runs_to_its_result(world: World) -> None:
    supervisor, name = world.supervisor(), world.add("plain")
    job = world.started(supervisor, name)
    assert world.api.job(job)["metadata"]["annotations"]["vfmalign.io/spec"].endswith(f"/jobs/{name}/spec.json")
    world.api.status(job, active=1, ready=1)
    world.until(supervisor, name, lambda one: one.progress.detail == "training, attempt 1")
    assert world.jobs.get(name).state == "running"
    world.write_result(name)
    world.api.condition(job, "Complete")
    ended = world.finish(supervisor, name)
    assert (ended.state, len(ended.curve)) == ("succeeded", 1)
    assert world.outcomes(name) == [(0, "succeeded")]


@pytest.mark.parametrize("lost", [False, True])
def test_the_log_says_once_that_a_job_is_launched_however_often_it_is_refused(world: World, lost: bool) -> None:
    supervisor, name = world.supervisor(), world.add("refused")
    world.api.refuse("POST", "/jobs", 422, "ValidatingAdmissionPolicy denied request", times=3)
    with capture_logs() as logged:
        world.until(supervisor, name, lambda _: [line["event"] for line in logged].count("job_not_started") == 3)
        assert "job_launched" not in {line["event"] for line in logged}
        if lost:  # the Job exists, and the launcher learns it later
            world.api.lose_answer("POST", "/jobs", do=True)
        world.until(supervisor, name, lambda one: one.handle is not None)
        supervisor.reconcile()
    launched = [line for line in logged if line["event"] == "job_launched"]
    assert [(line["job"], line["attempt"]) for line in launched] == [(name, 1)]


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
    assert (found.state, found.started_at) == ("pending", None)


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
        world.until(supervisor, name, lambda one, attempt=attempt: one.attempts == attempt and one.state == "pending")
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


# NCCL aborts a process that lost another one (134); gloo lets it end with 76.
@pytest.mark.parametrize(("seen", "code"), [(True, 134), (True, 76), (False, 76)])
def test_a_drained_pod_of_several_does_not_count_although_it_is_gone_and_the_others_failed(
    world: World, seen: bool, code: int
) -> None:
    """The API removes an evicted pod as soon as it has ended, maybe before the orchestrator looks."""
    supervisor, name = world.supervisor(nodes=2), world.add("drained")
    job = world.started(supervisor, name)
    evicted = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": "drain"}
    world.api.pod(job, {"phase": "Running", "conditions": [evicted]}, f"{job}-0")
    lost = {"name": "training", "state": {"terminated": {"exitCode": code, "reason": "Error"}}}
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
    assert world.outcomes(name)[0] == (code, "interrupted")


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
    assert len(world.api.requests("POST", "/jobs")) == 1


def test_a_failed_job_never_comes_back_after_its_time(world: World) -> None:
    supervisor, name = world.supervisor(), world.add("ttl-failed")
    job = world.started(supervisor, name)
    world.store.write(
        job_key(name, "failure.json"), JobFailure(exit_code=3, reason="BAD_VOLUME", message="not a volume")
    )
    world.api.remove(job)
    assert world.finish(world.supervisor(), name).failure.reason == "BAD_VOLUME"
    assert len(world.api.requests("POST", "/jobs")) == 1


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
    world.jobs.record = lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt)  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        first.reconcile()
    world.jobs.record = record  # type: ignore[method-assign]
    assert world.jobs.get(name).handle is None
    second = world.supervisor()
    world.until(second, name, lambda one: one.handle == {"name": job_name(name, 1)})
    world.write_result(name)
    world.api.condition(job_name(name, 1), "Complete")
    assert world.finish(second, name).state == "succeeded"
    assert len(world.api.requests("POST", "/jobs")) == 1


def test_an_orchestrator_that_died_before_it_made_anything(world: World) -> None:
    first, name = world.supervisor(), world.add("unborn")
    world.launcher.launch = lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt)
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
    assert world.until(supervisor, name, lambda one: one.state == "pending").attempts == 1


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
    assert world.until(world.supervisor(), name, lambda one: one.state == "pending").attempts == 2
