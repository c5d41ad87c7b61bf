"""Kinds that the emulated API serves: discovery, and the paths of their objects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.k8s.rendering import Object


@dataclass(frozen=True)
class Kind:
    """A kind of object that the API serves."""

    version: str
    name: str
    plural: str
    namespaced: bool = True

    @property
    def path(self) -> str:
        """Path of its group and version."""
        return f"/apis/{self.version}" if "/" in self.version else f"/api/{self.version}"


def _kinds(version: str, names: str, *, namespaced: bool = True) -> list[Kind]:
    special = {"Ingress": "ingresses", "NetworkPolicy": "networkpolicies", "PriorityClass": "priorityclasses"}
    special |= {"ValidatingAdmissionPolicy": "validatingadmissionpolicies"}
    return [Kind(version, name, special.get(name, f"{name.lower()}s"), namespaced) for name in names.split()]


KINDS = [
    *_kinds("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy", namespaced=False),
    *_kinds("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicyBinding", namespaced=False),
    *_kinds("v1", "ConfigMap PersistentVolumeClaim Pod PodTemplate Secret Service ServiceAccount"),
    *_kinds("v1", "Namespace Node", namespaced=False),
    *_kinds("apps/v1", "Deployment ReplicaSet DaemonSet"),
    *_kinds("autoscaling/v2", "HorizontalPodAutoscaler"),
    *_kinds("batch/v1", "Job"),
    *_kinds("gateway.networking.k8s.io/v1", "GRPCRoute"),
    *_kinds("kueue.x-k8s.io/v1beta2", "LocalQueue"),
    *_kinds("kueue.x-k8s.io/v1beta2", "ClusterQueue ResourceFlavor", namespaced=False),
    *_kinds("monitoring.coreos.com/v1", "PodMonitor PrometheusRule"),
    *_kinds("networking.k8s.io/v1", "Ingress NetworkPolicy"),
    *_kinds("policy/v1", "PodDisruptionBudget"),
    *_kinds("rbac.authorization.k8s.io/v1", "Role RoleBinding"),
    *_kinds("scheduling.k8s.io/v1", "PriorityClass", namespaced=False),
]
Key = tuple[str, str, str]
"""Kind, namespace (empty for objects of the cluster) and name."""


class Refusal(Exception):
    """A request that the API refuses."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status, self.reason = status, reason


@dataclass
class Call:
    """A parsed request for objects."""

    kind: Kind
    namespace: str
    name: str
    subresource: str
    query: dict[str, str]

    @property
    def key(self) -> Key:
        """The key of the object that it names."""
        return self.kind.name, self.namespace, self.name


def parse_call(path: str, query: dict[str, str]) -> Call:
    """Parses the path of a request for objects."""
    kind_path = next((kind.path for kind in KINDS if path.startswith(f"{kind.path}/")), None)
    parts = path.removeprefix(f"{kind_path}/").split("/")
    namespace = ""
    if parts[0] == "namespaces" and len(parts) > 2:
        namespace, parts = parts[1], parts[2:]
    for kind in KINDS:
        if (kind.path, kind.plural) == (kind_path, parts[0]):
            name, subresource = [*parts[1:], "", ""][:2]
            return Call(kind, namespace, name, subresource, query)
    raise Refusal(404, "NotFound", "the server could not find the requested resource")


def serve_discovery(path: str) -> Any:
    """Returns the answer to a request of API discovery; None for other paths."""
    if path == "/version":
        return {"major": "1", "minor": "32", "gitVersion": "v1.32.0"}
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        versions = sorted({kind.version for kind in KINDS if "/" in kind.version})
        entries = [{"groupVersion": version, "version": version.partition("/")[2]} for version in versions]
        groups = [
            {"name": entry["groupVersion"].partition("/")[0], "versions": [entry], "preferredVersion": entry}
            for entry in entries
        ]
        return {"apiVersion": "v1", "kind": "APIGroupList", "groups": groups}
    served = [kind for kind in KINDS if kind.path == path]
    if not served:
        return None
    verbs = ["create", "delete", "get", "list", "patch", "update", "watch"]
    resources: list[Object] = [
        {"name": kind.plural, "singularName": kind.name.lower(), "kind": kind.name, "namespaced": kind.namespaced,
         "verbs": verbs}
        for kind in served
    ]  # fmt: skip
    if path == "/apis/apps/v1":
        scale = {"name": "deployments/scale", "singularName": "", "kind": "Scale", "namespaced": True}
        resources.append(scale | {"group": "autoscaling", "version": "v1", "verbs": ["get", "patch", "update"]})
    if path == "/api/v1":
        eviction = {"name": "pods/eviction", "singularName": "", "kind": "Eviction", "namespaced": True}
        resources.append(eviction | {"group": "policy", "version": "v1", "verbs": ["create"]})
    return {"apiVersion": "v1", "kind": "APIResourceList", "groupVersion": served[0].version, "resources": resources}
