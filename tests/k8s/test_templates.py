"""The templates in k8s/jobs have valid commands and consistent numbers, and follow the policy."""

import json
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from google.protobuf.json_format import ParseDict
from tests.k8s.pod_policy import POD_RULES
from tests.k8s.policy import contains_no_credentials, is_labelled
from tests.k8s.rendering import environment, kustomize, pods, settings_maps
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
    options = converters.to_options(comparison.build_request(comparison.parse(arguments[3:])))
    assert (options.pairing, options.layers, options.kernel.fixed_sigma) == ("paired", ("stages.3",), 12.0)
    variables = {one["name"]: one.get("value") for one in pod("vfmalign-mmd")["containers"][0]["env"]}
    assert int(variables["WORLD_SIZE"]) == JOBS["vfmalign-mmd"]["completions"] == JOBS["vfmalign-mmd"]["parallelism"]


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
    settings = {
        folder: next(
            data
            for name, data in settings_maps(kustomize({"resources": [folder], "components": []})).items()
            if "-store-" in name
        )
        for folder in ("jobs", "base/services", "base/training")
    }
    assert settings["jobs"] == settings["base/services"] == settings["base/training"]


def test_the_processes_of_a_comparison_meet_at_the_first_pod():
    objects = kustomize({"resources": ["jobs"], "components": []})
    (job,) = (pod for pod in pods(objects) if pod.component == "mmd-job")
    (service,) = (item["metadata"]["name"] for item in objects if item["kind"] == "Service")
    variables = environment(job.containers[0], objects)
    assert job.spec["subdomain"] == variables["SERVICE_NAME"] == service
    (name,) = (one for one in job.containers[0]["env"] if one["name"] == "JOB_NAME")
    assert name["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.labels['batch.kubernetes.io/job-name']"
    # A pod of an Indexed Job is called JOB-INDEX. Kubernetes expands only variables that are listed before.
    assert variables["MASTER_ADDR"] == "$(JOB_NAME)-0.$(SERVICE_NAME)"
    order = [one["name"] for one in job.containers[0]["env"]]
    assert max(order.index("JOB_NAME"), order.index("SERVICE_NAME")) < order.index("MASTER_ADDR")


def test_the_reduction_waits_for_the_shards_before_it_starts(monkeypatch):
    monkeypatch.delenv("JOB_COMPLETION_INDEX", raising=False)
    (waiting,) = pod("vfmalign-extract-reduce")["initContainers"]
    (container,) = pod("vfmalign-extract-reduce")["containers"]
    assert waiting["command"][:3] == ["python", "-m", "vfmalign.features.sharding"]
    arguments = sharding.parse(waiting["command"][3:])
    assert (arguments.work, arguments.shards) == ("wait", JOBS["vfmalign-extract"]["completions"])
    # It reads the same request from the same store, and a request that is wrong fails the Job at once.
    assert arguments.request == sharding.parse(container["command"][3:]).request
    assert {key: waiting[key] for key in ("image", "envFrom", "env", "volumeMounts")} == {
        key: container[key] for key in ("image", "envFrom", "env", "volumeMounts")
    }
    final = [rule["onExitCodes"] for rule in rules("vfmalign-extract-reduce") if rule["action"] == "FailJob"]
    assert final == [{"operator": "In", "values": [2, 3]}]
    # Waiting is not a failure, so no failure is ignored but the loss of a node.
    assert [rule for rule in rules("vfmalign-extract-reduce") if rule["action"] == "Ignore"] == [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    ]


def rules(job):
    return JOBS[job]["podFailurePolicy"]["rules"]
