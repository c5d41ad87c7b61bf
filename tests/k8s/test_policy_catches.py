"""No sentence of the policy is vacuous: one change for each, and the sentence that it must produce."""

from __future__ import annotations

from typing import Any

import pytest
from tests.k8s.gpu_policy import gpu_violations
from tests.k8s.policy import violations
from tests.k8s.rendering import Object, get_name, render

GONE = object()
FEATURES, MMD, FINETUNING = (f"Deployment vfmalign-{name}" for name in ("features", "mmd", "finetuning"))
STORE, JOBS = "Deployment vfmalign-s3", "PodTemplate vfmalign-training"
POD, BOX = "/spec/template/spec", "/spec/template/spec/containers/0"
JOB_POD, JOB_BOX = "/template/spec", "/template/spec/containers/0"
IDENTITY = f"{POD}/volumes/1/projected/sources/0/serviceAccountToken"
CONTEXT = f"{BOX}/securityContext"
URL = "postgresql://a:b@host/db"
TOKEN = {"name": "token", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}
ROOT_INIT = [{"name": "chown", "image": "busybox:1"}]
DATABASE = {
    "name": "URL",
    "valueFrom": {"secretKeyRef": {"name": "vfmalign-database", "key": "VFMALIGN_DATABASE__URL"}},
}

# Object (without the suffix of a generated name), JSON pointer, new value, expected sentence.
BROKEN: dict[str, tuple[str, str, Any, str]] = {
    "no liveness": (FEATURES, f"{BOX}/livenessProbe", GONE, "livenessProbe is missing"),
    "liveness as readiness": (FEATURES, f"{BOX}/livenessProbe/grpc/service", GONE, "must query service 'liveness'"),
    "no memory limit": (FEATURES, f"{BOX}/resources/limits", GONE, "limits have no memory"),
    "no disk limit": (FEATURES, f"{BOX}/resources/limits/ephemeral-storage", GONE, "limits have no ephemeral-storage"),
    "no disk request": (JOBS, f"{JOB_BOX}/resources/requests/ephemeral-storage", GONE, "requests have no ephemeral"),
    "a small disk": (JOBS, f"{JOB_BOX}/resources/limits/ephemeral-storage", "10Gi", "do not fit into the limit of eph"),
    "user 0": (FEATURES, f"{POD}/securityContext/runAsUser", 0, "may run as root"),
    "no seccomp": (FEATURES, f"{POD}/securityContext/seccompProfile", GONE, "no seccomp profile"),
    "writable root": (FEATURES, f"{CONTEXT}/readOnlyRootFilesystem", False, "readOnlyRootFilesystem is not true"),
    "privileged jobs": (JOBS, f"{JOB_BOX}/securityContext/privileged", True, "sets privileged"),
    "host network": (FEATURES, f"{POD}/hostNetwork", True, "hostNetwork"),
    "host port": (FEATURES, f"{BOX}/ports/0/hostPort", 80, "has a hostPort"),
    "host path": (FEATURES, f"{POD}/volumes/-", {"name": "x", "hostPath": {"path": "/"}}, "is of kind hostPath"),
    "unbounded volume": (FEATURES, f"{POD}/volumes/0/emptyDir", {}, "has no sizeLimit"),
    "nowhere to write": (FEATURES, f"{BOX}/volumeMounts", GONE, "has no writable /tmp"),
    "an init container": (FEATURES, f"{POD}/initContainers", ROOT_INIT, "container chown: does not drop"),
    "no label": (
        "Service vfmalign-mmd",
        "/metadata/labels/app.kubernetes.io~1part-of",
        GONE,
        "Service vfmalign-mmd: label app.kubernetes.io/part-of is missing",
    ),
    "no label of pods": (JOBS, "/template/metadata/labels/app.kubernetes.io~1version", GONE, "version is missing"),
    "latest": (FEATURES, f"{BOX}/image", "registry:5000/vfmalign/features:latest", "or the tag latest"),
    "a literal": (MMD, f"{BOX}/env/-", {"name": "AWS_SECRET_ACCESS_KEY", "value": "x"}, "contains a credential"),
    "a credential in settings": ("ConfigMap vfmalign-store", "/data/AWS_ACCESS_KEY_ID", "x", "contains a credential"),
    "a password in a URL": ("ConfigMap vfmalign-finetuning", "/data/DB", URL, "DB contains a credential"),
    "a password as an argument": (FEATURES, f"{BOX}/args", [f"--db={URL}"], "an argument contains a credential"),
    "a whole Secret": (FEATURES, f"{BOX}/envFrom/-", {"secretRef": {"name": "x"}}, "imports every key of a Secret"),
    "a budget that blocks": (
        "PodDisruptionBudget vfmalign-mmd",
        "/spec/maxUnavailable",
        0,
        "block a drain indefinitely",
    ),
    "a token": (FEATURES, f"{POD}/automountServiceAccountToken", True, "automountServiceAccountToken is not False"),
    "another token as a volume": (FEATURES, f"{POD}/volumes/-", TOKEN, "mounts 2 tokens as a volume"),
    "a token for Kubernetes": (MMD, f"{IDENTITY}/audience", "kubernetes", "mounts a token for another audience"),
    "no authentication": (
        "ConfigMap vfmalign-auth",
        "/data/VFMALIGN_AUTH__MODE",
        "off",
        "Deployment vfmalign-mmd: admits callers without a token",
    ),
    "another issuer": (
        "ConfigMap vfmalign-auth",
        "/data/VFMALIGN_AUTH__ISSUERS",
        "[]",
        "does not admit the tokens of the cluster",
    ),
    "a role of a stranger": (
        FEATURES,
        f"{BOX}/env/7/value",
        '{"$(CLUSTER_ISSUER)": {"system:serviceaccount:default:default": ["finetuning"]}}',
        "grants roles of services and admins to ['system:serviceaccount:default:default']",
    ),
    "the default account": (FEATURES, f"{POD}/serviceAccountName", GONE, "no ServiceAccount of its own"),
    "an account that mounts": (
        "ServiceAccount vfmalign-mmd",
        "/automountServiceAccountToken",
        True,
        "ServiceAccount vfmalign-mmd: mounts its token",
    ),
    "any template": ("Role vfmalign-finetuning", "/rules/4/resourceNames", GONE, "may read PodTemplates other than"),
    "rights beside the services": (
        "Role vfmalign-finetuning",
        "/metadata/namespace",
        "vfmalign",
        "Role vfmalign-finetuning: grants rights outside the namespace of jobs",
    ),
    "jobs beside the services": (
        "ConfigMap vfmalign-finetuning",
        "/data/VFMALIGN_LAUNCHER__NAMESPACE",
        "vfmalign",
        "starts Jobs elsewhere than in the namespace vfmalign-jobs",
    ),
    "the services' keys among jobs": (
        JOBS,
        f"{JOB_POD}/volumes/-",
        {"name": "x", "secret": {"secretName": "vfmalign-store"}},
        "reads the Secrets vfmalign-store in the namespace of jobs",
    ),
    "a service among jobs": (MMD, "/metadata/namespace", "vfmalign-jobs", "does not belong into the namespace of jobs"),
    "another bucket": ("ConfigMap vfmalign-store-training", "/data/VFMALIGN_BUCKET", "x", "use several buckets"),
    "another's account": (
        "RoleBinding vfmalign-finetuning",
        "/subjects/0/namespace",
        "default",
        "binds an account of another namespace",
    ),
    "no preStop": (FEATURES, f"{BOX}/lifecycle", GONE, "has no preStop sleep"),
    "a drain as long as the grace": ("ConfigMap vfmalign-server", "/data/VFMALIGN_SERVER__DRAIN_S", "80", "the grace"),
    "a port of another name": (FEATURES, f"{BOX}/ports/0/name", "http", "ports are not"),
    "deaf": (
        "ConfigMap vfmalign-server",
        "/data/VFMALIGN_SERVER__HOST",
        GONE,
        "listens on the loopback interface only",
    ),
    "a small mmd": (
        MMD,
        f"{BOX}/resources/limits/memory",
        "2Gi",
        "does not fit into the limit of memory",
    ),
    "a small features": (
        FEATURES,
        f"{BOX}/resources/limits/memory",
        "1Gi",
        "does not fit into the limit of memory",
    ),
    "a small monitoring": (
        "Deployment vfmalign-monitoring",
        f"{BOX}/resources/limits/memory",
        "512Mi",
        "does not fit into the limit of memory",
    ),
    "a load balancer": ("Service vfmalign-finetuning", "/spec/type", "LoadBalancer", "not of type ClusterIP"),
    "one virtual address": ("Service vfmalign-features", "/spec/clusterIP", GONE, "is not headless"),
    "an orchestrator without address": (
        "Service vfmalign-finetuning",
        "/spec/clusterIP",
        "None",
        "does not resolve while no pod is ready",
    ),
    "a Service of everybody": (
        "Service vfmalign-mmd",
        "/spec/selector/app.kubernetes.io~1component",
        GONE,
        "does not select the pods of one component",
    ),
    "a Service without a port": ("Service vfmalign-mmd", "/spec/ports/0/targetPort", "http", "no port http"),
    "training first": ("PriorityClass vfmalign-training", "/value", 2000, "training must be below serving"),
    "variables of Services": (FEATURES, f"{POD}/enableServiceLinks", GONE, "enableServiceLinks is not false"),
    "an orchestrator that stops first": (
        FINETUNING,
        "/spec/strategy",
        {"type": "Recreate"},
        "a rollout interrupts it",
    ),
    "jobs that restart": (JOBS, f"{JOB_POD}/restartPolicy", "Always", "restarts its container"),
    "no time for a checkpoint": (
        JOBS,
        f"{JOB_POD}/terminationGracePeriodSeconds",
        GONE,
        "too little time for a checkpoint",
    ),
    "an object in another namespace": (
        "NetworkPolicy vfmalign-deny",
        "/metadata/namespace",
        GONE,
        "NetworkPolicy vfmalign-deny: lies in the namespace None, not vfmalign",
    ),
    "data in the pod": (
        STORE,
        f"{POD}/volumes/0",
        {"name": "data", "emptyDir": {"sizeLimit": "1Gi"}},
        "its data are lost with the pod, and a drain may evict it",
    ),
    "two pods on one claim": (STORE, "/spec/strategy", {"type": "RollingUpdate"}, "two pods may mount the claim"),
    "a StorageClass": (
        "PersistentVolumeClaim vfmalign-s3",
        "/spec/storageClassName",
        "standard",
        "PersistentVolumeClaim vfmalign-s3: names a StorageClass",
    ),
    "any pod security": (
        "Namespace vfmalign",
        "/metadata/labels/pod-security.kubernetes.io~1enforce",
        GONE,
        "pod security is not restricted (enforce)",
    ),
}

REMOVED = {
    "PersistentVolumeClaim vfmalign-s3": "Deployment vfmalign-s3: there is no PersistentVolumeClaim vfmalign-s3",
    "PodDisruptionBudget vfmalign-mmd": "Deployment vfmalign-mmd: 0 PodDisruptionBudgets",
    "ConfigMap vfmalign-store": "no ConfigMap vfmalign-store",
    "PodTemplate vfmalign-training": "PodTemplate vfmalign-training is missing",
    "PriorityClass vfmalign-serving": "does not have the priority class vfmalign-serving",
    "Role vfmalign-finetuning": "Role: grants",
}

ADDED: dict[str, tuple[dict[str, Any], str]] = {
    "Secret": ({"data": {"AWS_ACCESS_KEY_ID": "YQ=="}}, "manifests must not contain Secrets"),
    "Ingress": ({"spec": {}}, "is reachable from outside the cluster"),
    "ClusterRole": ({"rules": []}, "cluster-wide rights are not needed"),
    "CronJob": (
        {"spec": {"jobTemplate": {"spec": {"template": {"spec": {"containers": [{"name": "x", "image": "x"}]}}}}}},
        "CronJob x: image x has no tag",
    ),
}


def find(objects: list[Object], name: str) -> Object:
    """Returns the object of a kind and name, without the digest of a generated one."""
    return next(item for item in objects if f"{item['kind']} {get_name(item)}" == name)


def put(item: Object, pointer: str, value: Any) -> None:
    """Sets, appends or deletes the value at a JSON pointer. A deleted value must exist."""
    *path, last = (part.replace("~1", "/") for part in pointer.strip("/").split("/"))
    node: Any = item
    for part in path:
        node = node[int(part)] if isinstance(node, list) else node[part]
    if value is GONE:
        del node[last]
    elif last == "-":
        node.append(value)
    else:
        node[int(last) if isinstance(node, list) else last] = value


@pytest.mark.parametrize("name", BROKEN)
def test_it_finds_a_violation(name: str) -> None:
    where, pointer, value, sentence = BROKEN[name]
    objects = render("overlays/local")
    put(find(objects, where), pointer, value)
    sentences = violations(objects)
    assert any(sentence in one for one in sentences), sentences


@pytest.mark.parametrize("name", REMOVED)
def test_it_finds_a_missing_object(name: str) -> None:
    objects = render("overlays/local")
    objects.remove(find(objects, name))
    sentences = violations(objects)
    assert any(REMOVED[name] in one for one in sentences), sentences


@pytest.mark.parametrize("kind", ADDED)
def test_it_finds_a_forbidden_object(kind: str) -> None:
    objects = render("overlays/gpu")
    fields, sentence = ADDED[kind]
    labels = find(objects, FEATURES)["metadata"]["labels"]
    objects.append({"apiVersion": "v1", "kind": kind, "metadata": {"name": "x", "labels": labels}, **fields})
    sentences = violations(objects)
    assert any(sentence in one for one in sentences), sentences


def test_services_without_gpus_violate_every_rule_of_a_gpu_pool() -> None:
    objects = render("overlays/cpu")
    put(find(objects, FEATURES), f"{POD}/topologySpreadConstraints", GONE)
    sentences = gpu_violations(objects)
    for words in (
        "GPUs are requested by []",
        "must request one GPU",
        "may be scheduled outside the GPU pool",
        "does not tolerate the taint",
        "a rollout would wait for the GPU",
        "not spread across nodes",
    ):
        assert any(words in one for one in sentences), words
