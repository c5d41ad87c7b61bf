"""What the commands that jobs, checks and experiments share write."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.unit.cli.conftest import TIME, Invoke

from vfmalign.cli.commands.lifecycle import fetch_report, no_report
from vfmalign.cli.resources import Resource
from vfmalign.cli.target import Target
from vfmalign.cli.views.output import Output
from vfmalign.client.messages.common import ObjectRef, Progress
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


def test_without_keys_of_the_store_a_report_stays_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    target = Target({"finetuning": "127.0.0.1:1"}, None, None, None)
    assert not target.has_store
    files = {"html": ObjectRef(uri="s3://b/checks/c/report.html", sha256="0" * 64)}
    places = fetch_report(target, "c", files, tmp_path / "reports", Output.to_terminal())
    assert places == {"uri": "s3://b/checks/c/report.html"}
    assert "set AWS_ENDPOINT_URL_S3" in capsys.readouterr().err
    assert not (tmp_path / "reports").exists()
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    assert target.has_store
