"""The admission policy of training jobs, evaluated in CEL on the Jobs that the launcher creates and on others."""

from __future__ import annotations

from typing import Any

import cel
import kubernetes_validate
import pytest
import yaml
from tests.k8s.rendering import K8S, Object, render
from tests.k8s.test_policy_catches import GONE, find, put
from tests.k8s.test_schemas import VERSIONS

from vfmalign.finetuning.launchers.base import Origin
from vfmalign.finetuning.launchers.kubernetes.manifest import Options, manifest

POLICY, BINDING = yaml.safe_load_all((K8S / "admission" / "training-jobs.yaml").read_text())
ORCHESTRATOR = "system:serviceaccount:vfmalign:vfmalign-finetuning"
POD, BOX = "/spec/template/spec", "/spec/template/spec/containers/0"
OTHER = {"name": "more", "image": "busybox:1"}
DATABASE = {
    "name": "URL",
    "valueFrom": {"secretKeyRef": {"name": "vfmalign-database", "key": "VFMALIGN_DATABASE__URL"}},
}

REFUSED: dict[str, tuple[str, Any, str]] = {
    "another image": (f"{BOX}/image", "busybox:1", "images"),
    "a second container": (f"{POD}/containers/-", OTHER, "containers"),
    "another container": (f"{BOX}/name", "shell", "containers"),
    "an init container": (f"{POD}/initContainers", [OTHER], "containers"),
    "another account": (f"{POD}/serviceAccountName", "vfmalign-finetuning", "ServiceAccount"),
    "a token": (f"{POD}/automountServiceAccountToken", True, "no token"),
    "a token by default": (f"{POD}/automountServiceAccountToken", GONE, "no token"),
    "a volume of a Secret": (
        f"{POD}/volumes/-",
        {"name": "x", "secret": {"secretName": "vfmalign-database"}},
        "volumes",
    ),
    "no volumes": (f"{POD}/volumes", GONE, "volumes"),
    "a variable of a Secret": (f"{BOX}/env/-", DATABASE, "variables"),
    "variables of a Secret": (f"{BOX}/envFrom/-", {"secretRef": {"name": "vfmalign-database"}}, "variables"),
    "a mount": (f"{BOX}/volumeMounts/-", {"name": "tmp", "mountPath": "/opt"}, "mounts"),
    "a root filesystem to write to": (f"{BOX}/securityContext/readOnlyRootFilesystem", False, "security context"),
    "no security context": (f"{BOX}/securityContext", GONE, "security context"),
    "a shell": (f"{BOX}/command", ["sh", "-c", "id"], "runs vfmalign.training"),
    "a hook": (f"{BOX}/lifecycle", {"postStart": {"exec": {"command": ["id"]}}}, "runs vfmalign.training"),
}


@pytest.fixture(params=["overlays/cpu", "overlays/gpu", "overlays/local"])
def template(request: pytest.FixtureRequest) -> Object:
    return find(render(request.param), "PodTemplate vfmalign-training")


def review(job: Object, template: Object, username: str = ORCHESTRATOR) -> list[str]:
    """Returns the messages with which the policy refuses a Job."""
    context = {
        "object": job,
        "params": template,
        "request": {"namespace": "vfmalign", "userInfo": {"username": username}},
    }
    if not all(cel.evaluate(one["expression"], context) for one in POLICY["spec"]["matchConditions"]):
        return []
    variables = {one["name"]: cel.evaluate(one["expression"], context) for one in POLICY["spec"]["variables"]}
    context["variables"] = variables
    return [
        one["message"] for one in POLICY["spec"]["validations"] if cel.evaluate(one["expression"], context) is not True
    ]


@pytest.mark.parametrize("options", [Options(), Options(nodes=2, processes_per_node=2), Options(queue="vfmalign")])
def test_the_launcher_s_jobs_are_admitted(template: Object, options: Options) -> None:
    job = manifest(
        template, "job-1", 1, "s3://b/default/jobs/job-1/spec.json", options, origin=Origin("c", "scratch", "r")
    )
    assert review(job, template) == []


@pytest.mark.parametrize("name", REFUSED)
def test_other_jobs_of_the_orchestrator_are_refused(name: str, template: Object) -> None:
    pointer, value, words = REFUSED[name]
    job = manifest(template, "job-1", 1, "s3://b/default/jobs/job-1/spec.json", Options())
    put(job, pointer, value)
    messages = review(job, template)
    assert any(words in message for message in messages), messages
    assert review(job, template, "system:serviceaccount:vfmalign:someone") == [], "jobs of others are not its business"


def test_the_binding_takes_the_template_of_the_job_s_namespace_and_denies_without_one() -> None:
    assert BINDING["spec"]["policyName"] == POLICY["metadata"]["name"]
    assert BINDING["spec"]["paramRef"] == {"name": "vfmalign-training", "parameterNotFoundAction": "Deny"}
    assert (POLICY["spec"]["failurePolicy"], BINDING["spec"]["validationActions"]) == ("Fail", ["Deny"])


@pytest.mark.parametrize("version", VERSIONS)
def test_the_policy_is_valid(version: str) -> None:
    for item in (POLICY, BINDING):
        kubernetes_validate.validate(item, version, strict=True)
