"""What the commands that jobs, checks and experiments share write."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from tests.unit.cli.conftest import TIME, Invoke

from vfmalign.cli.commands.lifecycle import no_report
from vfmalign.cli.resources import Resource
from vfmalign.cli.target import Target
from vfmalign.client.messages.common import Progress
from vfmalign.client.messages.jobs import Job, JobSpec

SPEC = JobSpec(kind="finetune", dataset_id="d1", task="segmentation")


@pytest.fixture
def retried(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """A deployment that queues every job again; returns the ids of those that were retried."""
    ids: list[str] = []

    def retry(resource: object, target: object, job_id: str) -> Job:
        ids.append(job_id)
        return Job(job_id=job_id, spec=SPEC, state="queued", create_time=TIME)

    monkeypatch.setattr(Target, "find", lambda home: object())
    monkeypatch.setattr(Resource, "retry", retry)
    return lambda: ids


def test_a_retried_job_is_shown_with_the_command_that_follows_it(
    invoke: Invoke, retried: Callable[[], list[str]]
) -> None:
    code, out, _ = invoke("jobs", "retry", "j1")
    assert (code, out.strip()) == (0, "job j1: queued; follow it with `vfmalign watch j1`")
    code, out, _ = invoke("jobs", "retry", "j2", "--json")
    assert (code, json.loads(out)["job"]["job_id"]) == (0, "j2")
    assert retried() == ["j1", "j2"]


def test_a_report_that_is_written_again_names_what_was_lost() -> None:
    lost = Progress(phase="report", detail="s3://b/checks/c/report.json: missing", reason="ARTIFACT_LOST")
    message = str(no_report("check", "c", "running", lost))
    assert message == (
        "c: there is no report, because the check is running again: s3://b/checks/c/report.json: missing; "
        "see `vfmalign checks show c`"
    )
    training = Progress(phase="training", detail="training", reason="")
    assert no_report("check", "c", "running", training).message == "there is no report, because the check is running"
