"""Events of Jobs: one for each thing that happened, whoever writes it, and never at a job's expense."""

from __future__ import annotations

from typing import Any

import kubernetes_validate
from structlog.testing import capture_logs
from tests.integration.finetuning.kubernetes.emulator import Api, until
from tests.integration.finetuning.kubernetes.launches import NAME, URI
from tests.integration.finetuning.kubernetes.world import World

from vfmalign.core.domain.jobs import JobFailure, JobProgress
from vfmalign.core.storage.keys import job_key
from vfmalign.finetuning.launchers.base import JobEvent
from vfmalign.finetuning.launchers.kubernetes.events import EventRecorder
from vfmalign.finetuning.launchers.kubernetes.manifest import job_name

CHECKPOINTED = "training stores a checkpoint after each epoch, from which another attempt resumes"


def reasons(api: Api, job: str) -> set[str]:
    """Reasons of a Job's Events so far."""
    return {event["reason"] for event in api.events().values() if event["regarding"]["name"] == job}


def write_epoch(world: World, job: str, epoch: int) -> None:
    """What training leaves after an epoch."""
    point = JobProgress(
        epoch=epoch, epochs=9, step=epoch, steps=9, train_loss=None, validation_score=0.1, elapsed_seconds=1.0
    )
    world.store.write(job_key(job, f"progress/{epoch:04d}.json"), point)


def test_a_job_s_events_are_its_start_its_checkpoints_and_its_end(world: World) -> None:
    supervisor, name = world.supervisor(), world.add("events")
    job = world.started(supervisor, name)
    assert reasons(world.api, job) == set(), "it is pending"
    world.api.status(job, active=1, ready=1)
    until(lambda: supervisor.reconcile() or reasons(world.api, job) == {"Started"})
    write_epoch(world, name, 0)
    supervisor.reconcile()
    write_epoch(world, name, 1)
    until(lambda: supervisor.reconcile() or reasons(world.api, job) == {"Started", "Checkpointed"})
    world.write_result(name)
    world.api.condition(job, "Complete")
    world.finish(supervisor, name)
    until(lambda: reasons(world.api, job) == {"Started", "Checkpointed", "Succeeded"})
    event = world.api.events()[f"{job}.checkpointed"]
    assert (event["note"], event["type"]) == (CHECKPOINTED, "Normal")
    assert event["regarding"]["uid"] == world.api.job(job)["metadata"]["uid"], "`kubectl describe` selects by it"
    assert event["metadata"]["labels"]["vfmalign.io/job"] == name
    for one in world.api.events().values():
        kubernetes_validate.validate(one, "1.34", strict=True)


def test_a_failed_and_a_retried_attempt_are_warnings_with_the_reason(world: World) -> None:
    supervisor, name = world.supervisor(), world.add("retried")
    world.fail_pod(world.started(supervisor, name), 139)
    world.until(supervisor, name, lambda one: one.attempts == 2)
    failure = JobFailure(exit_code=3, reason="BAD_VOLUME", message="not a volume", remedy="replace it")
    world.store.write(job_key(name, "failure.json"), failure)
    world.fail_pod(job_name(name, 2), 3)
    world.finish(supervisor, name)
    until(lambda: "Failed" in reasons(world.api, job_name(name, 2)))
    retried, failed = (
        world.api.events()[f"{job_name(name, 1)}.retried"],
        world.api.events()[f"{job_name(name, 2)}.failed"],
    )
    assert (retried["type"], failed["type"]) == ("Warning", "Warning")
    assert "attempt 2 resumes from the last checkpoint" in retried["note"]
    assert failed["note"] == "not a volume; replace it"


def test_checkpoints_are_one_event_updated_at_most_once_a_minute(make: Any, api: Api) -> None:
    launcher = make()
    launcher.launch("a", 1, URI)
    for epoch in range(1, 30):
        launcher.announce("a", 1, JobEvent("Checkpointed", CHECKPOINTED, count=epoch))
    launcher.announce("a", 1, JobEvent("Succeeded", "the result is stored"))
    until(lambda: len(api.events()) == 2)
    assert api.events()[f"{NAME}.checkpointed"]["series"]["count"] == 29, "the end of a job writes the newest count"
    assert len(api.requests("POST", "/events")) <= 3, "the first checkpoint, the newest one, and the end"


def test_a_count_within_the_minute_of_the_last_one_is_written_after_it(make: Any, api: Api, connect: Any) -> None:
    make().launch("a", 1, URI)
    recorder = EventRecorder(connect(), lambda name: None, series_every_s=0.5)
    for epoch in (1, 2, 3):
        recorder.record(NAME, JobEvent("Checkpointed", CHECKPOINTED, count=epoch))
    until(lambda: f"{NAME}.checkpointed" in api.events())
    until(lambda: api.events()[f"{NAME}.checkpointed"].get("series", {}).get("count") == 3)
    recorder.close()


def test_a_restarted_orchestrator_continues_the_series_and_repeats_nothing(make: Any, api: Api) -> None:
    make().launch("a", 1, URI)
    for epoch in (3, 7):
        launcher = make()
        launcher.announce("a", 1, JobEvent("Started", "all processes of attempt 1 have started"))
        launcher.announce("a", 1, JobEvent("Checkpointed", CHECKPOINTED, count=epoch))
        launcher.close()
    assert sorted(api.events()) == [f"{NAME}.checkpointed", f"{NAME}.started"]
    assert api.events()[f"{NAME}.checkpointed"]["series"]["count"] == 7


def test_events_that_cannot_be_written_are_logged_once_and_disturb_nothing(world: World) -> None:
    world.api.refuse("POST", "/events", 403, 'events.events.k8s.io is forbidden: User "x"', times=9)
    supervisor, names = world.supervisor(), [world.add(f"quiet-{i}") for i in range(2)]
    with capture_logs() as logged:
        supervisor.reconcile()
        for name in names:
            job = job_name(name, 1)
            world.api.status(job, active=1, ready=1)
            world.until(supervisor, name, lambda one: one.state == "running")
            world.write_result(name)
            world.api.condition(job, "Complete")
            assert world.finish(supervisor, name).state == "succeeded"
        world.launcher.close()
    assert world.api.events() == {}
    lines = [line for line in logged if line["event"] == "events_not_written"]
    assert len(lines) == 1
    assert "bind Role vfmalign-finetuning" in lines[0]["error"]


def test_a_long_message_is_cut_to_what_the_api_accepts(make: Any, api: Api) -> None:
    launcher = make()
    launcher.launch("a", 1, URI)
    launcher.announce("a", 1, JobEvent("Failed", "…" * 2000, warning=True))
    until(lambda: api.events())
    assert len(api.events()[f"{NAME}.failed"]["note"].encode()) <= 1024
