"""A job as the command line shows it."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import Any

from rich.console import Console

from vfmalign.cli.views.tables import list_checks, list_jobs, show_job
from vfmalign.client.messages.checks import Check
from vfmalign.client.messages.common import Failure, Progress
from vfmalign.client.messages.jobs import Job, JobSpec


def render(*parts: object, width: int = 160) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(*parts)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def job(**fields: Any) -> Job:
    spec = JobSpec(kind="finetune", dataset_id="d", model_id="m", task="segmentation")
    return Job(job_id="a", spec=spec, create_time=datetime(2026, 1, 2, tzinfo=UTC), **fields)


def test_a_job_shows_the_command_for_its_log() -> None:
    command = "kubectl logs --namespace vfmalign job/vfmalign-a-1 --all-containers"
    assert command in render(*show_job(job(state="running", attempts=1, log_command=command)))


def test_a_pending_job_is_listed_as_such() -> None:
    assert "pending" in render(list_jobs([job(state="pending")]))


def test_a_failed_job_says_why_once() -> None:
    failure = Failure(reason="BAD_OPTION", message="the patch is too large; create another job")
    progress = Progress(phase="finished", detail="the patch is too large")
    text = render(*show_job(job(state="failed", failure=failure, progress=progress)))
    assert text.count("the patch is too large") == 1
    assert "BAD_OPTION" in text


def test_ids_and_times_of_lists_can_be_copied_on_a_narrow_terminal(finished_check: Check) -> None:
    name = "check-20261128-215333-df32"
    text = render(list_checks([finished_check.model_copy(update={"check_id": name})]), width=80)
    assert name in text
    assert "2023-11-14 22:13:20" in text
    started = job(state="running").model_copy(update={"job_id": "finetune-20261128-215333-df32"})
    text = render(list_jobs([started]), width=80)
    assert started.job_id in text
    assert "2026-01-02 00:00:00" in text
    assert all(len(line) <= 80 for line in text.splitlines())
