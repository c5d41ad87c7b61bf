"""Jobs whose pods have not started: their state, why they wait, how long, and the alert that says so."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.alert_rules import fires
from tests.integration.finetuning.kubernetes.emulator import EVENTS, Api
from tests.integration.finetuning.kubernetes.world import World

from vfmalign.client.messages.common import JOB_STATES
from vfmalign.core.runtime import metrics
from vfmalign.finetuning.launchers.kubernetes.manifest import job_name

CORDONED = (
    "0/2 nodes are available: 1 node(s) had untolerated taint {nvidia.com/gpu: }, 1 node(s) were unschedulable. "
    "preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."
)


def unschedulable(message: str) -> dict[str, Any]:
    """The status of a pod for which the scheduler finds no node."""
    scheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    return {"phase": "Pending", "conditions": [scheduled]}


def jobs_by_state() -> dict[str, float | None]:
    """The metric `vfmalign_jobs`."""
    return {state: metrics.REGISTRY.get_sample_value("vfmalign_jobs", {"state": state}) for state in JOB_STATES}


def waits() -> tuple[float, float]:
    """Number and sum of the metric `vfmalign_job_queue_wait_seconds`."""
    name = "vfmalign_job_queue_wait_seconds"
    return tuple(metrics.REGISTRY.get_sample_value(f"{name}_{part}") or 0.0 for part in ("count", "sum"))  # type: ignore[return-value]


def firing(tmp_path: Path, minute: int, samples: dict[str, float | None]) -> bool:
    """Whether the alert for waiting jobs fires once these samples have been scraped for some minutes."""
    series = {f'vfmalign_jobs{{state="{state}"}}': f"{value:g}x60" for state, value in samples.items()}
    return fires(tmp_path, "VfmalignJobsWait", series, minute)


def test_pods_on_a_cordoned_node_are_pending_and_raise_the_alert(
    world: World,
    tmp_path: Path,
) -> None:
    supervisor, names = world.supervisor(), [world.add("one"), world.add("two")]
    before = waits()
    supervisor.reconcile()
    for name in names:
        world.api.pod(job_name(name, 1), unschedulable(CORDONED))
        job = world.until(supervisor, name, lambda one: one.progress.reason == "UNSCHEDULABLE")
        assert (job.state, job.started_at, job.progress.phase) == ("pending", None, "pending")
        assert "0/2 nodes are available: 1 node(s) had untolerated taint" in job.progress.detail
    supervisor.reconcile()
    samples = jobs_by_state()
    assert samples == {"queued": 0, "pending": 2, "running": 0, "succeeded": 0, "failed": 0, "cancelled": 0}
    assert waits() == before, "they wait still"
    if shutil.which("promtool") is not None:
        assert not firing(tmp_path, 29, samples)
        assert firing(tmp_path, 31, samples)
        assert not firing(tmp_path, 31, samples | {"running": 1})


def failed_create(job: str, number: int, note: str) -> dict[str, Any]:
    """What the Job controller writes where it may not create a pod."""
    return {
        "metadata": {"name": f"{job}.{number}"},
        "regarding": {"kind": "Job", "name": job},
        "reason": "FailedCreate",
        "note": note,
        "deprecatedLastTimestamp": f"2026-01-01T00:00:0{number}Z",
    }


def test_a_job_that_a_resource_quota_keeps_from_starting_names_the_quota(world: World) -> None:
    supervisor, name = world.supervisor(), world.add("quota")
    job = world.started(supervisor, name)
    forbidden = f'Error creating: pods "{job}-x" is forbidden: '
    world.api.add(EVENTS, failed_create("another-job", 1, f"{forbidden}exceeded quota: of-another"))
    world.api.add(EVENTS, failed_create(job, 3, f"{forbidden}exceeded quota: gpus, requested: 1, used: 2, limited: 2"))
    world.api.add(EVENTS, failed_create(job, 2, f"{forbidden}violates PodSecurity"))
    pending = world.until(supervisor, name, lambda one: one.progress.reason == "QUOTA_EXCEEDED")
    assert pending.state == "pending"
    assert "exceeded quota: gpus, requested: 1, used: 2, limited: 2); raise the quota" in pending.progress.detail
    world.api.add(EVENTS, failed_create(job, 4, f"{forbidden}violates PodSecurity"))
    refused = world.until(supervisor, name, lambda one: one.progress.reason == "POD_REFUSED")
    assert "violates PodSecurity); change PodTemplate" in refused.progress.detail
    world.api.pod(job, {"phase": "Running"})
    world.api.status(job, active=1, ready=1)
    world.until(supervisor, name, lambda one: one.state == "running")


def test_a_role_that_may_not_read_events_leaves_the_general_explanation(world: World) -> None:
    supervisor, name = world.supervisor(), world.add("hidden")
    world.api.refuse("GET", "/events", 403, times=3)
    world.started(supervisor, name)
    pending = world.until(supervisor, name, lambda one: "if that lasts" in one.progress.detail)
    assert (pending.state, pending.progress.reason) == ("pending", "NO_POD")


def test_the_wait_lasts_until_the_pod_starts_whoever_watches(world: World) -> None:
    first, name = world.supervisor(), world.add("long")
    job = world.started(first, name)
    before = waits()
    world.api.pod(job, unschedulable(CORDONED))
    world.until(first, name, lambda one: one.progress.reason == "UNSCHEDULABLE")
    second = world.supervisor()  # the orchestrator is restarted
    second.reconcile()
    world.api.pod(job, {"phase": "Running"})
    world.api.status(job, active=1, ready=1)
    found = world.until(second, name, lambda one: one.state == "running")
    second.reconcile()
    number, seconds = waits()
    assert number == before[0] + 1, "once"
    assert seconds - before[1] == pytest.approx((found.started_at - found.created_at).total_seconds())
    attempt = world.jobs.attempts(name)[0]
    assert found.started_at > attempt.started_at, "the attempt was launched before its pod started"


def test_only_the_first_start_ends_the_wait(world: World) -> None:
    supervisor, name = world.supervisor(), world.add("again")
    world.api.status(world.started(supervisor, name), active=1, ready=1)
    first = world.until(supervisor, name, lambda one: one.state == "running")
    after = waits()
    world.fail_pod(job_name(name, 1), 137)
    pending = world.until(supervisor, name, lambda one: one.attempts == 2)
    assert (pending.state, pending.started_at) == ("pending", first.started_at), "its next attempt waits"
    world.api.status(job_name(name, 2), active=1, ready=1)
    world.until(supervisor, name, lambda one: one.state == "running")
    assert waits() == after


def test_a_job_whose_pod_is_replaced_is_pending_again(world: World) -> None:
    supervisor, name = world.supervisor(), world.add("drained")
    job = world.started(supervisor, name)
    world.api.pod(job, {"phase": "Running"})
    world.api.status(job, active=1, ready=1)
    world.until(supervisor, name, lambda one: one.state == "running")
    world.api.pod(job, {"phase": "Failed"})
    world.api.pod(job, unschedulable("0/1 nodes are available: 1 node(s) were unschedulable."), f"{job}-y")
    world.api.status(job, active=1, ready=0)
    found = world.until(supervisor, name, lambda one: one.state == "pending")
    assert (found.attempts, found.progress.reason) == (1, "UNSCHEDULABLE")


def test_a_pod_that_ended_before_it_was_seen_did_start(world: World) -> None:
    supervisor, failed, succeeded = world.supervisor(), world.add("quick"), world.add("quicker")
    before = waits()
    supervisor.reconcile()
    world.fail_pod(job_name(failed, 1), 3)
    world.write_result(succeeded)
    world.api.condition(job_name(succeeded, 1), "Complete")
    assert world.finish(supervisor, failed).started_at is not None
    assert world.finish(supervisor, succeeded).started_at is not None
    assert waits()[0] == before[0] + 2


@pytest.mark.parametrize(
    ("waiting", "reason", "words"),
    [
        (
            {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "vfmalign/training:9"'},
            "IMAGE_PULL_FAILED",
            'Back-off pulling image "vfmalign/training:9"',
        ),
        (
            {"reason": "CreateContainerConfigError", "message": 'secret "vfmalign-store" not found'},
            "CONTAINER_CANNOT_START",
            'secret "vfmalign-store" not found',
        ),
    ],
)
def test_a_container_that_cannot_start_is_pending(
    world: World,
    waiting: dict[str, str],
    reason: str,
    words: str,
) -> None:
    supervisor, name = world.supervisor(), world.add("image")
    container = {"name": "training", "image": "vfmalign/training:9", "state": {"waiting": waiting}}
    world.api.pod(world.started(supervisor, name), {"phase": "Pending", "containerStatuses": [container]})
    found = world.until(supervisor, name, lambda one: one.progress.reason == reason)
    assert found.state == "pending"
    assert words in found.progress.detail


def test_a_job_that_waits_for_quota_is_pending(world: World) -> None:
    supervisor, name = world.supervisor(queue="gpu"), world.add("quota")
    world.started(supervisor, name)
    found = world.until(supervisor, name, lambda one: one.progress.reason == "WAITING_FOR_QUOTA")
    assert (found.state, found.started_at) == ("pending", None)


def test_pending_jobs_occupy_slots(world: World, api: Api) -> None:
    names = [world.add(f"slot-{i}") for i in range(5)]
    supervisor = world.supervisor()
    for _ in range(2):
        supervisor.reconcile()
    assert [world.jobs.get(name).state for name in names] == ["pending"] * 4 + ["queued"]
    assert len(api.jobs()) == 4


def test_cancel_ends_a_pending_job(world: World) -> None:
    supervisor, name = world.supervisor(), world.add("cancel-pending")
    job = world.started(supervisor, name)
    before = waits()
    world.api.pod(job, unschedulable(CORDONED))
    world.until(supervisor, name, lambda one: one.progress.reason == "UNSCHEDULABLE")
    assert world.jobs.cancel(name).state == "pending", "until its pod is gone"
    supervisor.reconcile()
    assert world.api.job(job)["spec"]["suspend"] is True
    world.api.remove_pod(f"{job}-x")
    world.api.condition(job, "Suspended")
    ended = world.finish(supervisor, name)
    assert (ended.state, ended.started_at) == ("cancelled", None)
    assert waits() == before, "it never started"
