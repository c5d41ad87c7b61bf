"""What `make test-cluster` reads of the commands' JSON, without a cluster."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.cluster.deployment import Deployment
from tests.cluster.test_cluster import ended
from tests.unit.cli.conftest import TIME, Invoke

from vfmalign.cli.resources import Resource
from vfmalign.cli.target import Target
from vfmalign.client.messages.checks import Check
from vfmalign.client.messages.jobs import Job, JobSpec

LOG = 'pod log: {"event": "call"}\n'


@pytest.fixture
def deployment(invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    """A deployment whose pods run the command line of this process."""

    class Here(Deployment):
        def run(self, name: str, *arguments: str, command: list[str] | None = None) -> str:
            code, out, err = invoke(*arguments)
            assert code == 0, err
            return LOG + out

    monkeypatch.setattr(Target, "find", lambda directory: Target({}, None, directory=directory))
    return Here(tmp_path, tmp_path)


def test_it_reads_the_state_and_the_attempts_of_a_job(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = JobSpec(kind="finetune", dataset_id="d1", task="segmentation")
    job = Job(job_id="j1", spec=spec, state="succeeded", create_time=TIME, attempts=2)
    monkeypatch.setattr(Resource, "get", lambda resource, target, job_id: job)
    shown = deployment.get_job("j1")
    assert (shown["state"], shown["attempts"]) == ("JOB_STATE_SUCCEEDED", 2)


def test_it_reads_the_end_and_the_report_of_a_check(
    deployment: Deployment, finished_check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Resource, "get", lambda resource, target, check_id: finished_check)
    shown = deployment.get_check("c1")
    assert ended(shown) == shown
    assert shown["state"] == "CHECK_STATE_SUCCEEDED"
    assert shown["result"]["report_html"]["uri"].startswith("s3://")
    monkeypatch.setattr(Resource, "get", lambda *_: finished_check.model_copy(update={"state": "running"}))
    assert ended(deployment.get_check("c1")) is None
