"""What every rendering of k8s/ must keep to: each rule is a function from objects to sentences about what breaks it.

Knows Kubernetes objects as plain data. Knows nothing of kustomize or of a cluster. Rules of pods are in `pod_policy`,
those of GPU pools in `gpu_policy`, those of the network in `network`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from tests.k8s.pod_policy import POD_RULES, SERVERS, Rule
from tests.k8s.rendering import Object, called, pods

LABELS = tuple(f"app.kubernetes.io/{name}" for name in ("name", "component", "part-of"))
VERSION = "app.kubernetes.io/version"
TOKEN_OWNER = "finetuning"
ROLE = {
    ("batch", "jobs"): {"create", "get", "list", "watch", "patch", "delete"},
    ("", "pods"): {"get", "list"},
    ("", "pods/log"): {"get"},
    ("", "podtemplates"): {"get"},
}
_DOORS = {"Ingress", "Gateway", "HTTPRoute", "GRPCRoute", "TCPRoute", "TLSRoute", "Route", "IngressRoute"}
_CREDENTIAL = re.compile(r"passw|secret|token|credential|(access|private|api)_?key|database__url", re.IGNORECASE)
_URL_WITH_PASSWORD = re.compile(r"\w+://[^/\s:@]+:[^/\s@]+@")


def violations(objects: Sequence[Object]) -> list[str]:
    """What breaks the rules, one sentence each."""
    return [sentence for rule in RULES for sentence in rule(objects)]


def _of_kind(objects: Sequence[Object], *kinds: str) -> list[Object]:
    return [item for item in objects if item["kind"] in kinds]


def _selects(selector: dict[str, str], labels: dict[str, str]) -> bool:
    return bool(selector) and selector.items() <= labels.items()


def labelled(objects: Sequence[Object]) -> Iterator[str]:
    """Recommended labels on every object and every pod, and the version on pods."""
    holders = [(called(item), item["metadata"].get("labels") or {}, LABELS) for item in objects]
    holders += [(f"pods of {pod.name}", pod.labels, (*LABELS, VERSION)) for pod in pods(objects)]
    for name, labels, wanted in holders:
        for label in wanted:
            if not labels.get(label):
                yield f"{name}: label {label} is missing"


def is_restricted(objects: Sequence[Object]) -> Iterator[str]:
    """The namespace has the API server refuse what is not `restricted`."""
    for item in _of_kind(objects, "Namespace"):
        for mode in ("enforce", "audit", "warn"):
            if item["metadata"].get("labels", {}).get(f"pod-security.kubernetes.io/{mode}") != "restricted":
                yield f"{called(item)}: pod security is not restricted ({mode})"


def has_budget(objects: Sequence[Object]) -> Iterator[str]:
    """A PodDisruptionBudget for every Deployment; our own never block a drain for ever."""
    budgets = _of_kind(objects, "PodDisruptionBudget")
    for pod in pods(objects):
        if pod.owner["kind"] != "Deployment":
            continue
        own = [item for item in budgets if _selects(item["spec"]["selector"].get("matchLabels", {}), pod.labels)]
        if len(own) != 1:
            yield f"{pod.name}: {len(own)} PodDisruptionBudgets"
        for item in own:
            if pod.component in SERVERS and item["spec"].get("maxUnavailable") != 1:
                yield f"{pod.name}: its budget may block a drain for ever"


def one_token(objects: Sequence[Object]) -> Iterator[str]:
    """The orchestrator alone has a token, for exactly what it does."""
    accounts = {item["metadata"]["name"]: item for item in _of_kind(objects, "ServiceAccount")}
    for item in accounts.values():
        if item.get("automountServiceAccountToken") is not False:
            yield f"{called(item)}: mounts its token"
    for pod in pods(objects):
        own = f"vfmalign-{pod.component}"
        if pod.spec.get("serviceAccountName") != own or own not in accounts:
            yield f"{pod.name}: has no ServiceAccount of its own"
        if pod.spec.get("automountServiceAccountToken") is not (pod.component == TOKEN_OWNER):
            yield f"{pod.name}: automountServiceAccountToken is not {pod.component == TOKEN_OWNER}"
        for volume in pod.spec.get("volumes", ()):
            if any("serviceAccountToken" in source for source in volume.get("projected", {}).get("sources", ())):
                yield f"{pod.name}: mounts a token as a volume"
    for item in _of_kind(objects, "ClusterRole", "ClusterRoleBinding"):
        yield f"{called(item)}: nothing here needs a right in the whole cluster"
    granted: dict[tuple[str, str], set[str]] = {}
    for item in _of_kind(objects, "Role"):
        for rule in item["rules"]:
            for resource in rule["resources"]:
                granted.setdefault((rule["apiGroups"][0], resource), set()).update(rule["verbs"])
            if "podtemplates" in rule["resources"] and rule.get("resourceNames") != ["vfmalign-training"]:
                yield f"{called(item)}: reads more PodTemplates than its own"
    if granted != ROLE:
        yield f"Role: grants {granted}, not {ROLE}"
    namespaces = {item["metadata"]["name"] for item in _of_kind(objects, "Namespace")}
    for item in _of_kind(objects, "RoleBinding"):
        subjects = {(one["kind"], one["name"]) for one in item["subjects"]}
        if subjects != {("ServiceAccount", f"vfmalign-{TOKEN_OWNER}")}:
            yield f"{called(item)}: is for {subjects}"
        if {one.get("namespace") for one in item["subjects"]} != namespaces:
            yield f"{called(item)}: is for an account of another namespace"


def holds_no_secret(objects: Sequence[Object]) -> Iterator[str]:
    """Credentials are references: no Secret, no literal that looks like one."""
    for item in _of_kind(objects, "Secret"):
        yield f"{called(item)}: Secrets do not belong here"
    for item in _of_kind(objects, "ConfigMap"):
        for name, value in (item.get("data") or {}).items():
            yield from _no_credential(called(item), name, str(value))
    for pod in pods(objects):
        for container in pod.containers:
            for one in container.get("env", ()):
                yield from _no_credential(pod.name, one["name"], one.get("value", ""))
            for text in (*container.get("args", ()), *container.get("command", ())):
                yield from _no_credential(pod.name, "", str(text))
            if any("secretRef" in source for source in container.get("envFrom", ())):
                yield f"{pod.name}: takes every key of a Secret"


def _no_credential(where: str, name: str, value: str) -> Iterator[str]:
    if (value and _CREDENTIAL.search(name)) or _URL_WITH_PASSWORD.search(value):
        yield f"{where}: {name or 'an argument'} holds a credential"


def stays_inside(objects: Sequence[Object]) -> Iterator[str]:
    """There is no authentication yet: nothing leads in from outside the cluster."""
    for item in _of_kind(objects, *_DOORS):
        yield f"{called(item)}: leads into the cluster"
    for item in _of_kind(objects, "Service"):
        spec = item["spec"]
        if spec.get("type") != "ClusterIP" or spec.get("externalIPs"):
            yield f"{called(item)}: is not of type ClusterIP"
        behind = [pod for pod in pods(objects) if _selects(spec.get("selector") or {}, pod.labels)]
        if len({pod.component for pod in behind}) != 1:
            yield f"{called(item)}: does not select the pods of one component"
        for pod in behind:
            if (pod.component in SERVERS or pod.component == "training") and spec.get("clusterIP") != "None":
                yield f"{called(item)}: is not headless"
            names = {port.get("name") for container in pod.containers for port in container.get("ports", ())}
            for port in spec["ports"]:
                if isinstance(port.get("targetPort"), str) and port["targetPort"] not in names:
                    yield f"{called(item)}: no port {port['targetPort']} in {pod.name}"


def has_priority(objects: Sequence[Object]) -> Iterator[str]:
    """Serving goes before training, and training displaces nobody."""
    classes = {item["metadata"]["name"]: item for item in _of_kind(objects, "PriorityClass")}
    for pod in pods(objects):
        wanted = "vfmalign-training" if pod.component == "training" else "vfmalign-serving"
        if pod.spec.get("priorityClassName") != wanted or wanted not in classes:
            yield f"{pod.name}: has no priority of class {wanted}"
    serving, training = classes.get("vfmalign-serving", {}), classes.get("vfmalign-training", {})
    if not serving.get("value", 0) > training.get("value", 0) or training.get("preemptionPolicy") != "Never":
        yield "priorities: serving is not above training, or training displaces others"


def is_one_orchestrator(objects: Sequence[Object]) -> Iterator[str]:
    """One replica that ends before the next begins, and a template for its jobs."""
    for item in _of_kind(objects, "Deployment"):
        if item["metadata"]["name"] == "vfmalign-finetuning" and (
            item["spec"].get("replicas") != 1 or item["spec"]["strategy"] != {"type": "Recreate"}
        ):
            yield f"{called(item)}: may run twice"
    templates = [pod for pod in pods(objects) if pod.owner["kind"] == "PodTemplate"]
    if [pod.owner["metadata"]["name"] for pod in templates] != ["vfmalign-training"]:
        yield "PodTemplate vfmalign-training is missing"
    for pod in templates:
        if pod.spec.get("restartPolicy") != "Never" or [c["name"] for c in pod.spec["containers"]] != ["training"]:
            yield f"{pod.name}: restarts its container, or has none named training"
        if pod.spec.get("terminationGracePeriodSeconds", 30) < 60:
            yield f"{pod.name}: leaves no time for a checkpoint"


RULES: tuple[Rule, ...] = (
    *POD_RULES,
    labelled,
    is_restricted,
    has_budget,
    one_token,
    holds_no_secret,
    stays_inside,
    has_priority,
    is_one_orchestrator,
)
