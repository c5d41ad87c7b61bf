"""The templates in k8s/jobs: their commands are ours, their numbers agree, and their pods are confined."""

import json
from pathlib import Path

import pytest
import yaml
from google.protobuf.json_format import ParseDict

from vfmalign.core.settings import parser
from vfmalign.features import shards
from vfmalign.features.messages import parse_bulk
from vfmalign.mmd import local
from vfmalign.mmd.settings import MmdSettings
from vfmalign.v1 import features_pb2

FOLDER = Path(__file__).resolve().parents[2] / "k8s" / "jobs"
JOBS = {
    found["metadata"]["name"]: found["spec"]
    for file in ("extract.yaml", "mmd.yaml")
    for found in yaml.safe_load_all((FOLDER / file).read_text())
    if found["kind"] == "Job"
}


def pod(job):
    return JOBS[job]["template"]["spec"]


def command(job):
    (container,) = pod(job)["containers"]
    return container["command"]


def test_shards_are_as_many_as_pods(monkeypatch):
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "3")
    for job, work in (("vfmalign-extract", "extract"), ("vfmalign-extract-reduce", "reduce")):
        assert command(job)[:3] == ["python", "-m", "vfmalign.features.shards"]
        arguments = shards.parse(command(job)[3:])
        assert (arguments.work, arguments.shards) == (work, JOBS["vfmalign-extract"]["completions"])
    assert JOBS["vfmalign-extract"]["parallelism"] == JOBS["vfmalign-extract"]["completions"]


def test_the_request_is_one():
    request = ParseDict(json.loads((FOLDER / "request.json").read_text()), features_pb2.ExtractDatasetRequest())
    assert parse_bulk(request).split == "test"


def test_processes_of_one_comparison_are_as_many_as_pods():
    arguments = command("vfmalign-mmd")
    assert arguments[:3] == ["python", "-m", "vfmalign.mmd"]
    assert local.parse(parser("mmd", MmdSettings, local.SUMMARY), arguments[3:]).paired
    environment = {one["name"]: one.get("value") for one in pod("vfmalign-mmd")["containers"][0]["env"]}
    assert int(environment["WORLD_SIZE"]) == JOBS["vfmalign-mmd"]["completions"] == JOBS["vfmalign-mmd"]["parallelism"]
    assert environment["MASTER_ADDR"] == f"vfmalign-mmd-0.{pod('vfmalign-mmd')['subdomain']}"


@pytest.mark.parametrize("job", JOBS)
def test_pods_are_confined_and_hold_no_secret(job):
    spec = pod(job)
    (container,) = spec["containers"]
    assert spec["restartPolicy"] == "Never"
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == 10001
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"]["requests"]["memory"] == container["resources"]["limits"]["memory"]
    secrets = [one for one in container["env"] if one["name"].startswith("AWS_")]
    assert {one["valueFrom"]["secretKeyRef"]["key"] for one in secrets} == {
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
    }
