"""What the commands that jobs, checks and experiments share write."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.unit.cli.conftest import TIME, Invoke

from vfmalign.cli.commands.lifecycle import download_report, no_report
from vfmalign.cli.resources import CHECKS, Resource
from vfmalign.cli.target import Target
from vfmalign.client.messages.common import ObjectRef, Progress
from vfmalign.client.messages.jobs import Job, JobSpec
from vfmalign.core.domain.errors import DigestMismatch

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


class Reports:
    """A deployment whose checks have a report."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files

    async def get_report(self, operation_id: str, report_format: str) -> bytes:
        return self.files[report_format]


def download(files: dict[str, bytes], expected: dict[str, bytes], folder: Path) -> dict[str, str]:
    target = cast(Target, SimpleNamespace(run=lambda work: asyncio.run(work(SimpleNamespace(checks=Reports(files))))))
    refs: Any = {
        name: ObjectRef(uri=f"s3://b/checks/c/report.{name}", sha256=hashlib.sha256(data).hexdigest())
        for name, data in expected.items()
    }
    return download_report(target, CHECKS, "c", refs, folder)


def test_a_report_is_fetched_from_the_service(tmp_path: Path) -> None:
    files = {"html": b"page", "json": b"{}"}
    places = download(files, files, tmp_path / "reports")
    assert places["uri"] == "s3://b/checks/c/report.html"
    assert {name: Path(places[name]).read_bytes() for name in files} == files
    assert sorted(path.name for path in (tmp_path / "reports").iterdir()) == ["c.html", "c.json"]


def test_a_report_that_was_written_anew_is_not_mixed_with_the_result(tmp_path: Path) -> None:
    with pytest.raises(DigestMismatch, match="run the command again"):
        download({"html": b"newer"}, {"html": b"page"}, tmp_path)
    assert list(tmp_path.iterdir()) == []
