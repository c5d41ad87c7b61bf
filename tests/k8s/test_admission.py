"""The admission policy of training jobs, evaluated in CEL on the Jobs that the launcher creates and on others."""

from __future__ import annotations

from typing import Any

import cel
import kubernetes_validate
import pytest
import yaml
from tests.k8s.policy import get_namespaces
from tests.k8s.rendering import K8S, Object, render
from tests.k8s.test_policy_catches import DATABASE, GONE, find, put
from tests.k8s.test_schemas import VERSIONS

from vfmalign.finetuning.launchers.base import Origin
from vfmalign.finetuning.launchers.kubernetes.manifest import Options, manifest

POLICY, BINDING = yaml.safe_load_all((K8S / "admission" / "training-jobs.yaml").read_text())
POD, BOX = "/spec/template/spec", "/spec/template/spec/containers/0"
OTHER = {"name": "more", "image": "busybox:1"}
EXEC = {"command": ["sh", "-c", "env > /tmp/keys"]}

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
    "a hook": (f"{BOX}/lifecycle", {"postStart": {"exec": EXEC}}, "neither hooks nor probes"),
    "a startup probe": (f"{BOX}/startupProbe", {"exec": EXEC}, "neither hooks nor probes"),
    "a readiness probe": (f"{BOX}/readinessProbe", {"exec": EXEC}, "neither hooks nor probes"),
    "a liveness probe": (f"{BOX}/livenessProbe", {"exec": EXEC}, "neither hooks nor probes"),
    "another folder": (f"{BOX}/workingDir", "/tmp", "folder"),
    "host aliases": (f"{POD}/hostAliases", [{"ip": "203.0.113.1", "hostnames": ["s3.hospital.example"]}], "aliases"),
    "another name server": (f"{POD}/dnsConfig", {"nameservers": ["203.0.113.1"]}, "DNS"),
    "the node's name servers": (f"{POD}/dnsPolicy", "Default", "DNS"),
    "the node's network": (f"{POD}/hostNetwork", True, "network"),
    "the node's processes": (f"{POD}/hostPID", True, "process namespaces"),
    "the node's IPC": (f"{POD}/hostIPC", True, "process namespaces"),
    "shared processes": (f"{POD}/shareProcessNamespace", True, "process namespaces"),
    "another priority": (f"{POD}/priorityClassName", "system-node-critical", "priority"),
    "no priority class": (f"{POD}/priorityClassName", GONE, "priority"),
    "another group of files": (f"{POD}/securityContext/fsGroup", 0, "security context"),
    "no security context of the pod": (f"{POD}/securityContext", GONE, "security context"),
    "another runtime": (f"{POD}/runtimeClassName", "privileged", "runtime class"),
    "a node of its choice": (f"{POD}/nodeName", "control-plane", "node"),
}


@pytest.fixture(params=["overlays/cpu", "overlays/gpu", "overlays/local"])
def template(request: pytest.FixtureRequest) -> Object:
    return find(render(request.param), "PodTemplate vfmalign-training")


def review(job: Object, template: Object) -> list[str]:
    """Returns the messages with which the policy refuses a Job."""
    context: dict[str, Any] = {"object": job, "params": template}
    context["variables"] = {
        one["name"]: cel.evaluate(one["expression"], context) for one in POLICY["spec"]["variables"]
    }
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
def test_other_jobs_are_refused(name: str, template: Object) -> None:
    pointer, value, words = REFUSED[name]
    job = manifest(template, "job-1", 1, "s3://b/default/jobs/job-1/spec.json", Options())
    put(job, pointer, value)
    messages = review(job, template)
    assert any(words in message for message in messages), messages


def test_the_binding_covers_the_namespace_of_jobs_and_denies_without_its_template() -> None:
    assert BINDING["spec"]["policyName"] == POLICY["metadata"]["name"]
    assert BINDING["spec"]["paramRef"] == {"name": "vfmalign-training", "parameterNotFoundAction": "Deny"}
    assert "matchConditions" not in POLICY["spec"], "whoever creates a Job in the namespace of jobs"
    bound = BINDING["spec"]["matchResources"]["namespaceSelector"]["matchLabels"]
    assert bound == {"kubernetes.io/metadata.name": get_namespaces(render("overlays/cpu"))[1]}
    assert (POLICY["spec"]["failurePolicy"], BINDING["spec"]["validationActions"]) == ("Fail", ["Deny"])


@pytest.mark.parametrize("version", VERSIONS)
def test_the_policy_is_valid(version: str) -> None:
    for item in (POLICY, BINDING):
        kubernetes_validate.validate(item, version, strict=True)
