"""The templates in k8s/jobs have valid commands and consistent numbers, and follow the policy."""

import json
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from google.protobuf.json_format import ParseDict
from tests.k8s.pod_policy import POD_RULES
from tests.k8s.policy import contains_no_credentials, is_labelled
from tests.k8s.rendering import kustomize, pods
from tests.k8s.test_schemas import VERSIONS

from vfmalign.features import sharding
from vfmalign.features.converters import to_extraction_request
from vfmalign.mmd.comparison import __main__ as comparison
from vfmalign.mmd.service import converters
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


def test_there_are_as_many_shards_as_pods(monkeypatch):
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "3")
    for job, work in (("vfmalign-extract", "extract"), ("vfmalign-extract-reduce", "reduce")):
        assert command(job)[:3] == ["python", "-m", "vfmalign.features.sharding"]
        arguments = sharding.parse(command(job)[3:])
        assert (arguments.work, arguments.shards) == (work, JOBS["vfmalign-extract"]["completions"])
    assert JOBS["vfmalign-extract"]["parallelism"] == JOBS["vfmalign-extract"]["completions"]


def test_the_request_is_valid():
    request = ParseDict(json.loads((FOLDER / "request.json").read_text()), features_pb2.ExtractDatasetRequest())
    assert to_extraction_request(request).split == "test"


def test_a_comparison_has_as_many_processes_as_pods():
    arguments = command("vfmalign-mmd")
    assert arguments[:3] == ["python", "-m", "vfmalign.mmd.comparison"]
    options = converters.to_options(comparison.request_of(comparison.parse(arguments[3:])))
    assert (options.pairing, options.layers, options.fixed_sigma) == ("paired", ("stages.3",), 12.0)
    environment = {one["name"]: one.get("value") for one in pod("vfmalign-mmd")["containers"][0]["env"]}
    assert int(environment["WORLD_SIZE"]) == JOBS["vfmalign-mmd"]["completions"] == JOBS["vfmalign-mmd"]["parallelism"]
    assert environment["MASTER_ADDR"] == f"vfmalign-mmd-0.{pod('vfmalign-mmd')['subdomain']}"


@pytest.mark.parametrize("components", [[], ["jobs/gpu"]])
def test_the_templates_are_valid_and_follow_the_policy(components):
    objects = kustomize({"resources": ["jobs"], "components": components})
    for rule in (*POD_RULES, is_labelled, contains_no_credentials):
        assert list(rule(objects)) == [], rule
    for item in objects:
        for version in VERSIONS:
            kubernetes_validate.validate(item, version, strict=True)
    devices = [pod.spec["containers"][0]["resources"]["limits"].get("nvidia.com/gpu") for pod in pods(objects)]
    assert devices == ([1, None, 1] if components else [None, None, None])


def test_the_templates_use_the_store_settings_of_the_base():
    name = {
        folder: [
            item["metadata"]["name"]
            for item in kustomize({"resources": [folder], "components": []})
            if item["kind"] == "ConfigMap" and "vfmalign-store" in item["metadata"]["name"]
        ]
        for folder in ("jobs", "base")
    }
    assert name["jobs"] == name["base"]
