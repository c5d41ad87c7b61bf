"""Policy for rendered manifests of k8s/. Each rule maps objects to a sentence per violation.

Rules for pods are in `pod_policy`, those for GPU pools in `gpu_policy`; `network` evaluates NetworkPolicies.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence

from tests.k8s.pod_policy import POD_RULES, SERVERS, Rule
from tests.k8s.rendering import Object, Pod, describe, environment, get_name, pods

LABELS = tuple(f"app.kubernetes.io/{name}" for name in ("name", "component", "part-of"))
CLUSTER_WIDE = {"Namespace", "PriorityClass"}
VERSION = "app.kubernetes.io/version"
TOKEN_OWNER = "finetuning"
LONGEST_TOKEN_S = 3600
ROLE = {
    ("batch", "jobs"): {"create", "get", "list", "patch", "delete"},
    ("", "pods"): {"get", "list"},
    ("", "pods/log"): {"get"},
    ("", "podtemplates"): {"get"},
    ("events.k8s.io", "events"): {"list"},
}
JOB_KINDS = {
    "ConfigMap", "LocalQueue", "NetworkPolicy", "PodTemplate", "ResourceQuota", "Role", "RoleBinding", "Service",
    "ServiceAccount",
}  # fmt: skip
"""What the namespace of jobs may hold."""
_ENTRY_POINTS = {"Ingress", "Gateway", "HTTPRoute", "GRPCRoute", "TCPRoute", "TLSRoute", "Route", "IngressRoute"}
_CREDENTIAL = re.compile(r"passw|secret|token|credential|(access|private|api)_?key|database__url", re.IGNORECASE)
_URL_WITH_PASSWORD = re.compile(r"\w+://[^/\s:@]+:[^/\s@]+@")


def violations(objects: Sequence[Object], *, has_orchestrator: bool = True) -> list[str]:
    """Returns one sentence for each violation.

    Args:
        objects: all objects of an installation.
        has_orchestrator: whether the service `finetuning` is part of it.
    """
    rules = (*RULES, *ORCHESTRATOR_RULES) if has_orchestrator else (*RULES, has_no_orchestrator)
    return [sentence for rule in rules for sentence in rule(objects)]


def _of_kind(objects: Sequence[Object], *kinds: str) -> list[Object]:
    return [item for item in objects if item["kind"] in kinds]


def _selects(selector: dict[str, str], labels: dict[str, str]) -> bool:
    return bool(selector) and selector.items() <= labels.items()


def is_labelled(objects: Sequence[Object]) -> Iterator[str]:
    """Objects and pods have the recommended labels; pods also have the version."""
    holders = [(describe(item), item["metadata"].get("labels") or {}, LABELS) for item in objects]
    holders += [(f"pods of {pod.name}", pod.labels, (*LABELS, VERSION)) for pod in pods(objects)]
    for name, labels, wanted in holders:
        for label in wanted:
            if not labels.get(label):
                yield f"{name}: label {label} is missing"


def is_restricted(objects: Sequence[Object]) -> Iterator[str]:
    """The namespace enforces Pod Security `restricted`."""
    for item in _of_kind(objects, "Namespace"):
        for mode in ("enforce", "audit", "warn"):
            if item["metadata"].get("labels", {}).get(f"pod-security.kubernetes.io/{mode}") != "restricted":
                yield f"{describe(item)}: pod security is not restricted ({mode})"


def lies_in_its_namespace(objects: Sequence[Object]) -> Iterator[str]:
    """What training needs lies in the namespace of jobs, everything else in that of the services; both are created.

    Without a namespace of its own, kubectl would choose `default` for an object.
    """
    services, jobs = get_namespaces(objects)
    for item in objects:
        actual = item["metadata"].get("namespace")
        expected = jobs if _is_for_jobs(item) else services
        if item["kind"] not in CLUSTER_WIDE and actual != expected:
            yield f"{describe(item)}: lies in the namespace {actual}, not {expected}"


def get_namespaces(objects: Sequence[Object]) -> tuple[str, str]:
    """Returns the namespace of the services and that of the jobs; the latter is empty where there is none."""
    names = {
        item["metadata"]["labels"]["app.kubernetes.io/component"]: item["metadata"]["name"]
        for item in _of_kind(objects, "Namespace")
    }
    return names["namespace"], names.get("training", "")


def _is_for_jobs(item: Object) -> bool:
    is_of_training = item["metadata"].get("labels", {}).get("app.kubernetes.io/component") in {"training", "queue"}
    return is_of_training or (item["kind"], get_name(item)) == ("ConfigMap", "vfmalign-store-training")


def keeps_data(objects: Sequence[Object]) -> Iterator[str]:
    """Data are in a claim on the default StorageClass, which one pod at a time mounts, or nothing may evict the pod."""
    claims = {item["metadata"]["name"]: item["spec"] for item in _of_kind(objects, "PersistentVolumeClaim")}
    budgets = _of_kind(objects, "PodDisruptionBudget")
    used: set[str] = set()
    for pod in pods(objects):
        for volume in pod.spec.get("volumes", ()):
            if volume["name"] != "data":
                continue
            own = [item for item in budgets if _selects(item["spec"]["selector"].get("matchLabels", {}), pod.labels)]
            name = volume.get("persistentVolumeClaim", {}).get("claimName")
            if name is None and [item["spec"].get("maxUnavailable") for item in own] != [0]:
                yield f"{pod.name}: its data are lost with the pod, and a drain may evict it"
            if name is not None and name not in claims:
                yield f"{pod.name}: there is no PersistentVolumeClaim {name}"
            if name is not None and pod.owner["spec"]["strategy"] != {"type": "Recreate"}:
                yield f"{pod.name}: two pods may mount the claim {name} at once"
            used.add(name or "")
    for name, spec in claims.items():
        if "storageClassName" in spec or spec["accessModes"] != ["ReadWriteOnce"] or name not in used:
            yield f"PersistentVolumeClaim {name}: names a StorageClass, may be mounted by several nodes, or is not used"


def has_budget(objects: Sequence[Object]) -> Iterator[str]:
    """Every Deployment has a PodDisruptionBudget; those of vfmalign cannot block a drain."""
    budgets = _of_kind(objects, "PodDisruptionBudget")
    for pod in pods(objects):
        if pod.owner["kind"] != "Deployment":
            continue
        own = [item for item in budgets if _selects(item["spec"]["selector"].get("matchLabels", {}), pod.labels)]
        if len(own) != 1:
            yield f"{pod.name}: {len(own)} PodDisruptionBudgets"
        for item in own:
            if pod.component in SERVERS and item["spec"].get("maxUnavailable") != 1:
                yield f"{pod.name}: its budget may block a drain indefinitely"


def has_one_token(objects: Sequence[Object]) -> Iterator[str]:
    """Only the orchestrator has a token for Kubernetes."""
    accounts = {item["metadata"]["name"]: item for item in _of_kind(objects, "ServiceAccount")}
    for item in accounts.values():
        if item.get("automountServiceAccountToken") is not False:
            yield f"{describe(item)}: mounts its token"
    for pod in pods(objects):
        own = f"vfmalign-{pod.component}"
        if pod.spec.get("serviceAccountName") != own or own not in accounts:
            yield f"{pod.name}: has no ServiceAccount of its own"
        if pod.spec.get("automountServiceAccountToken") is not (pod.component == TOKEN_OWNER):
            yield f"{pod.name}: automountServiceAccountToken is not {pod.component == TOKEN_OWNER}"
        yield from _mounts_token_for_vfmalign_alone(pod)


def has_needed_rights(objects: Sequence[Object]) -> Iterator[str]:
    """The orchestrator has the rights that it needs, in the namespace of jobs alone, and nobody else has any."""
    for item in _of_kind(objects, "ClusterRole", "ClusterRoleBinding"):
        yield f"{describe(item)}: cluster-wide rights are not needed"
    services, jobs = get_namespaces(objects)
    granted: dict[tuple[str, str], set[str]] = {}
    for item in _of_kind(objects, "Role"):
        for rule in item["rules"]:
            for resource in rule["resources"]:
                granted.setdefault((rule["apiGroups"][0], resource), set()).update(rule["verbs"])
            if "podtemplates" in rule["resources"] and rule.get("resourceNames") != ["vfmalign-training"]:
                yield f"{describe(item)}: may read PodTemplates other than vfmalign-training"
    if granted != ROLE:
        yield f"Role: grants {granted}, not {ROLE}"
    for item in _of_kind(objects, "Role", "RoleBinding"):
        if item["metadata"].get("namespace") != jobs:
            yield f"{describe(item)}: grants rights outside the namespace of jobs"
    for item in _of_kind(objects, "RoleBinding"):
        subjects = {(one["kind"], one["name"]) for one in item["subjects"]}
        if subjects != {("ServiceAccount", f"vfmalign-{TOKEN_OWNER}")}:
            yield f"{describe(item)}: binds {subjects}"
        if {one.get("namespace") for one in item["subjects"]} != {services}:
            yield f"{describe(item)}: binds an account of another namespace"


def starts_jobs_in_their_namespace(objects: Sequence[Object]) -> Iterator[str]:
    """The orchestrator starts Jobs in their namespace, whose pods use the same store as the services."""
    jobs = get_namespaces(objects)[1]
    for pod in pods(objects):
        variables = environment(pod.spec["containers"][0], objects)
        if pod.component == TOKEN_OWNER and variables.get("VFMALIGN_LAUNCHER__NAMESPACE") != jobs:
            yield f"{pod.name}: starts Jobs elsewhere than in the namespace {jobs}"
    buckets = {
        (variables["VFMALIGN_BUCKET"], variables["AWS_REGION"])
        for pod in pods(objects)
        if "VFMALIGN_BUCKET" in (variables := environment(pod.spec["containers"][0], objects))
    }
    if len(buckets) != 1:
        yield f"training jobs and services use several buckets: {sorted(buckets)}"


def separates_jobs(objects: Sequence[Object]) -> Iterator[str]:
    """The namespace of jobs has no service to call and no credential but the store's keys of training."""
    jobs = get_namespaces(objects)[1]
    for item in objects:
        if item["metadata"].get("namespace") == jobs and item["kind"] not in JOB_KINDS:
            yield f"{describe(item)}: does not belong into the namespace of jobs"
    for pod in pods(objects):
        if pod.namespace != jobs:
            continue
        if names := _list_secrets(pod) - {"vfmalign-store-training"}:
            yield f"{pod.name}: reads the Secrets {', '.join(sorted(names))} in the namespace of jobs"


def _list_secrets(pod: Pod) -> set[str]:
    """Returns the names of the Secrets that a pod reads, in variables and volumes."""
    variables = (one.get("valueFrom", {}) for container in pod.containers for one in container.get("env", ()))
    names = {one["secretKeyRef"]["name"] for one in variables if "secretKeyRef" in one}
    for volume in pod.spec.get("volumes", ()):
        names |= {volume["secret"]["secretName"]} if "secret" in volume else set()
        sources = volume.get("projected", {}).get("sources", ())
        names |= {source["secret"]["name"] for source in sources if "secret" in source}
    return names


def _mounts_token_for_vfmalign_alone(pod: Pod) -> Iterator[str]:
    """A service proves its identity with a token that the Kubernetes API refuses; other pods have none."""
    sources = [source for one in pod.spec.get("volumes", ()) for source in one.get("projected", {}).get("sources", ())]
    tokens = [source["serviceAccountToken"] for source in sources if "serviceAccountToken" in source]
    if len(tokens) != (pod.component in SERVERS):
        yield f"{pod.name}: mounts {len(tokens)} tokens as a volume"
    for token in tokens:
        if token.get("audience") != "vfmalign" or token.get("expirationSeconds", 0) > LONGEST_TOKEN_S:
            yield f"{pod.name}: mounts a token for another audience, or for more than an hour"


def authenticates_callers(objects: Sequence[Object]) -> Iterator[str]:
    """Services admit tokens of the issuers alone, and do not start before the people's issuer is set."""
    for pod in pods(objects):
        if pod.component not in SERVERS:
            continue
        variables = environment(pod.spec["containers"][0], objects)
        if variables.get("VFMALIGN_AUTH__MODE") != "oidc":
            yield f"{pod.name}: admits callers without a token"
        issuers = json.loads(variables.get("VFMALIGN_AUTH__ISSUERS", "[]"))
        if variables.get("CLUSTER_ISSUER", "") not in {"", *issuers}:
            yield f"{pod.name}: does not admit the tokens of the cluster"
        roles = variables.get("VFMALIGN_AUTH__SUBJECT_ROLES", "{}")
        owners = json.loads(roles).get("$(CLUSTER_ISSUER)", {})
        named = {role: name for name, granted in owners.items() for role in granted if role in {*SERVERS, "admin"}}
        callers = ("features", "finetuning", "monitoring")
        if named != {name: f"system:serviceaccount:$(NAMESPACE):vfmalign-{name}" for name in callers}:
            yield f"{pod.name}: grants roles of services and admins to {sorted(named.values())}"
        order = [one["name"] for one in pod.spec["containers"][0]["env"]]
        expanded = min(order.index(f"VFMALIGN_AUTH__{name}") for name in ("JWKS_FILES", "SUBJECT_ROLES"))
        if max(order.index("NAMESPACE"), order.index("CLUSTER_ISSUER")) > expanded:
            yield f"{pod.name}: Kubernetes expands only variables that are listed before"


def contains_no_credentials(objects: Sequence[Object]) -> Iterator[str]:
    """Manifests refer to credentials and contain none: no Secret, no literal that looks like one."""
    for item in _of_kind(objects, "Secret"):
        yield f"{describe(item)}: manifests must not contain Secrets"
    for item in _of_kind(objects, "ConfigMap"):
        for name, value in (item.get("data") or {}).items():
            yield from _no_credential(describe(item), name, str(value))
    for pod in pods(objects):
        for container in pod.containers:
            for one in container.get("env", ()):
                yield from _no_credential(pod.name, one["name"], one.get("value", ""))
            for text in (*container.get("args", ()), *container.get("command", ())):
                yield from _no_credential(pod.name, "", str(text))
            if any("secretRef" in source for source in container.get("envFrom", ())):
                yield f"{pod.name}: imports every key of a Secret"


def _no_credential(where: str, name: str, value: str) -> Iterator[str]:
    holds_one = value and not name.endswith(("_FILE", "_FILES")) and _CREDENTIAL.search(name)
    if holds_one or _URL_WITH_PASSWORD.search(value):
        yield f"{where}: {name or 'an argument'} contains a credential"


def is_internal(objects: Sequence[Object]) -> Iterator[str]:
    """Nothing is reachable from outside the cluster; a gateway is the operator's decision."""
    for item in _of_kind(objects, *_ENTRY_POINTS):
        yield f"{describe(item)}: is reachable from outside the cluster"
    for item in _of_kind(objects, "Service"):
        spec = item["spec"]
        if spec.get("type") != "ClusterIP" or spec.get("externalIPs"):
            yield f"{describe(item)}: is not of type ClusterIP"
        selected = [pod for pod in pods(objects) if _selects(spec.get("selector") or {}, pod.labels)]
        if len({pod.component for pod in selected}) != 1:
            yield f"{describe(item)}: does not select the pods of one component"
        for pod in selected:
            is_balanced = pod.component in {"features", "mmd", "training"}
            if is_balanced and spec.get("clusterIP") != "None":
                yield f"{describe(item)}: is not headless"
            if not is_balanced and "clusterIP" in spec:
                yield f"{describe(item)}: does not resolve while no pod is ready"
            names = {port.get("name") for container in pod.containers for port in container.get("ports", ())}
            for port in spec["ports"]:
                if isinstance(port.get("targetPort"), str) and port["targetPort"] not in names:
                    yield f"{describe(item)}: no port {port['targetPort']} in {pod.name}"


def has_priority(objects: Sequence[Object]) -> Iterator[str]:
    """Serving has a higher priority than training, which preempts nothing."""
    classes = {item["metadata"]["name"]: item for item in _of_kind(objects, "PriorityClass")}
    for pod in pods(objects):
        wanted = "vfmalign-training" if pod.component == "training" else "vfmalign-serving"
        if pod.spec.get("priorityClassName") != wanted or wanted not in classes:
            yield f"{pod.name}: does not have the priority class {wanted}"
    serving, training = classes.get("vfmalign-serving", {}), classes.get("vfmalign-training", {})
    if not serving.get("value", 0) > training.get("value", 0) or training.get("preemptionPolicy") != "Never":
        yield "priorities: training must be below serving and must not preempt"


def has_one_orchestrator(objects: Sequence[Object]) -> Iterator[str]:
    """One orchestrator, whose successor is ready before it stops, and a template for its jobs."""
    for item in _of_kind(objects, "Deployment"):
        spec = item["spec"]
        if item["metadata"]["name"] == "vfmalign-finetuning" and (
            spec.get("replicas") != 1 or spec["strategy"].get("rollingUpdate") != {"maxSurge": 1, "maxUnavailable": 0}
        ):
            yield f"{describe(item)}: is not one instance, or a rollout interrupts it"
    templates = [pod for pod in pods(objects) if pod.owner["kind"] == "PodTemplate"]
    if [pod.owner["metadata"]["name"] for pod in templates] != ["vfmalign-training"]:
        yield "PodTemplate vfmalign-training is missing"
    for pod in templates:
        if pod.spec.get("restartPolicy") != "Never" or [c["name"] for c in pod.spec["containers"]] != ["training"]:
            yield f"{pod.name}: restarts its container, or has no container named training"
        if pod.spec.get("terminationGracePeriodSeconds", 30) < 60:
            yield f"{pod.name}: leaves too little time for a checkpoint"


def has_no_orchestrator(objects: Sequence[Object]) -> Iterator[str]:
    """Without an orchestrator, nothing starts jobs and nobody has rights in the cluster."""
    for item in _of_kind(objects, "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding", "PodTemplate"):
        yield f"{describe(item)}: only the orchestrator needs it"


RULES: tuple[Rule, ...] = (
    *POD_RULES,
    is_labelled,
    is_restricted,
    lies_in_its_namespace,
    keeps_data,
    has_budget,
    has_one_token,
    authenticates_callers,
    contains_no_credentials,
    is_internal,
    has_priority,
)
ORCHESTRATOR_RULES: tuple[Rule, ...] = (
    has_needed_rights,
    has_one_orchestrator,
    starts_jobs_in_their_namespace,
    separates_jobs,
)
