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
LAUNCH = ["python", "-m", "vfmalign.training.launch"]
URI = "s3://b/default/jobs/job-1/spec.json"
KEY = "$(AWS_SECRET_ACCESS_KEY)"

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
    "users of the node": (f"{POD}/hostUsers", True, "user namespace"),
    "a host name": (f"{POD}/hostname", "s3", "host name"),
    "another host name": (f"{POD}/hostnameOverride", "s3.hospital.example", "host name"),
    "a full host name": (f"{POD}/setHostnameAsFQDN", True, "host name"),
    "another subdomain": (f"{POD}/subdomain", "vfmalign-mmd", "subdomain"),
    "another scheduler": (f"{POD}/schedulerName", "mine", "scheduler"),
    "a pull secret": (f"{POD}/imagePullSecrets", [{"name": "vfmalign-database"}], "pull secrets"),
    "a claim of a device": (f"{POD}/resourceClaims", [{"name": "gpu", "resourceClaimName": "x"}], "claims of devices"),
    "a claim of a container": (f"{BOX}/resources/claims", [{"name": "gpu"}], "claims of devices"),
    "restarts": (f"{POD}/restartPolicy", "OnFailure", "never restarted"),
    "restarts of a container": (f"{BOX}/restartPolicy", "Always", "no restart rules"),
    "restart rules": (f"{BOX}/restartPolicyRules", [{"action": "Restart"}], "no restart rules"),
    "a port of the node": (f"{BOX}/ports", [{"containerPort": 80, "hostPort": 80}], "ports"),
    "another termination message": (f"{BOX}/terminationMessagePath", "/tmp/keys", "termination message"),
    "the log as termination message": (f"{BOX}/terminationMessagePolicy", "FallbackToLogsOnError", "termination"),
}

EXPANDED: dict[str, list[str]] = {
    "the reported one": ["--processes", "1", "--master", "$(AWS_ACCESS_KEY_ID).$(AWS_SECRET_ACCESS_KEY):443", URI],
    "a key as the spec": [KEY],
    "the other key": ["$(AWS_ACCESS_KEY_ID)"],
    "a key in a path": [f"s3://b/{KEY}/spec.json"],
    "a key at the end": [URI + KEY],
    "a key twice": [KEY + KEY],
    "a key as the host": ["--master", f"{KEY}:443", URI],
    "a key as the port": ["--master", f"h:{KEY}", URI],
    "a key after `=`": [f"--master={KEY}:443", URI],
    "a key as a number": ["--nodes", KEY, URI],
    "a key as an option": [f"--{KEY}", URI],
    "a key in the last of many": ["--nodes", "1", "--processes", "1", "--timeout-s", KEY, URI],
    "an escaped reference": ["$$(AWS_SECRET_ACCESS_KEY)"],
    "an escape before a reference": ["$$$(AWS_SECRET_ACCESS_KEY)"],
    "two escapes": ["$$$$(AWS_SECRET_ACCESS_KEY)"],
    "an escaped and another": ["$$(HOME)$(AWS_SECRET_ACCESS_KEY)"],
    "a reference in a reference": ["$($(AWS_SECRET_ACCESS_KEY))"],
    "an unclosed reference": ["$(AWS_SECRET_ACCESS_KEY"],
    "an empty reference": ["$()"],
    "a variable without a secret": ["$(HOME)"],
    "a variable of the Job controller": ["--node-rank", "$(JOB_COMPLETION_INDEX)", URI],
    "a setting": ["$(VFMALIGN_BUCKET)"],
    "a line before it": ["--master\n$(AWS_SECRET_ACCESS_KEY)"],
    "spaces in it": ["$( AWS_SECRET_ACCESS_KEY )"],
    "letters around it": [f"ä{KEY}ö"],
}
ELSEWHERE: dict[str, tuple[str, Any]] = {
    "a command": (f"{BOX}/command", [*LAUNCH, KEY]),
    "the program": (f"{BOX}/command", [KEY]),
    "a variable": (f"{BOX}/env/-", {"name": "HTTPS_PROXY", "value": f"http://{KEY}.example:80"}),
    "a path of a mount": (f"{BOX}/volumeMounts/0/subPathExpr", KEY),
    "an argument of an init container": (f"{POD}/initContainers", [OTHER | {"args": [KEY]}]),
    "a command of an init container": (f"{POD}/initContainers", [OTHER | {"command": ["sh", KEY]}]),
    "a variable of an init container": (f"{POD}/initContainers", [OTHER | {"env": [{"name": "X", "value": KEY}]}]),
    "an argument of a second container": (f"{POD}/containers/-", OTHER | {"args": [KEY]}),
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
    job = manifest(template, "job-1", 1, URI, options, origin=Origin("c", "scratch", "r"))
    assert review(job, template) == []


@pytest.mark.parametrize("name", REFUSED)
def test_other_jobs_are_refused(name: str, template: Object) -> None:
    pointer, value, words = REFUSED[name]
    job = manifest(template, "job-1", 1, URI, Options())
    put(job, pointer, value)
    messages = review(job, template)
    assert any(words in message for message in messages), messages


@pytest.mark.parametrize("name", EXPANDED)
def test_arguments_that_the_kubelet_expands_are_refused(name: str, template: Object) -> None:
    job = manifest(template, "job-1", 1, URI, Options(nodes=2, processes_per_node=2))
    put(job, f"{BOX}/args", EXPANDED[name])
    assert [message for message in review(job, template) if "`$(`" in message] == review(job, template) != []


@pytest.mark.parametrize("name", ELSEWHERE)
def test_nothing_else_that_the_kubelet_expands_is_admitted(name: str, template: Object) -> None:
    job = manifest(template, "job-1", 1, URI, Options())
    put(job, *ELSEWHERE[name])
    assert any("`$(`" in message for message in review(job, template))


@pytest.mark.parametrize("pointer", ["/template/spec/containers/0/env/-", "/template/spec/containers/0/command"])
def test_a_template_with_references_is_no_excuse(pointer: str, template: Object) -> None:
    put(template, pointer, {"name": "X", "value": KEY} if pointer.endswith("-") else ["python", KEY])
    job = manifest(template, "job-1", 1, URI, Options())
    assert any("`$(`" in message for message in review(job, template))


@pytest.mark.parametrize("argument", ["$HOME", "${HOME}", "$", "$$", "(HOME)", "$ (HOME)", ""])
def test_arguments_that_the_kubelet_leaves_alone_are_admitted(argument: str, template: Object) -> None:
    job = manifest(template, "job-1", 1, URI, Options())
    put(job, f"{BOX}/args", [argument])
    assert review(job, template) == []


def test_a_job_may_have_what_its_template_has(template: Object) -> None:
    """The API server fills in defaults of both alike, and a platform team patches the template."""
    pod, container = template["template"]["spec"], template["template"]["spec"]["containers"][0]
    pod |= {
        "schedulerName": "default-scheduler", "hostUsers": False, "hostname": "a", "setHostnameAsFQDN": False,
        "imagePullSecrets": [{"name": "registry"}], "resourceClaims": [{"name": "gpu", "resourceClaimName": "g"}],
    }  # fmt: skip
    container |= {"terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}
    container |= {"ports": [{"containerPort": 29400, "protocol": "TCP"}]}
    container["resources"]["claims"] = [{"name": "gpu"}]
    assert review(manifest(template, "job-1", 1, URI, Options()), template) == []
    job = manifest(template, "job-1", 1, URI, Options())
    put(job, f"{POD}/schedulerName", GONE)
    assert review(job, template) != []


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
