"""Policy for every pod in rendered manifests. Each rule maps objects to a sentence per violation.

Rules for other objects are in `policy`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from kubernetes.utils.quantity import parse_quantity
from tests.k8s.rendering import Object, Pod, environment, pods, settings_maps

from vfmalign.features.settings import FeaturesOptions
from vfmalign.mmd.settings import MmdOptions
from vfmalign.monitoring.settings import MonitoringOptions

SERVERS = ("features", "mmd", "finetuning", "monitoring")
PORTS = {"grpc": 8001, "metrics": 8002, "health": 8003}
_DEFAULT_DRAIN_S = 30.0
_PROCESS_BYTES = 512 * 2**20
_LOG_BYTES = 100 * 2**20
"""The kubelet keeps five files of 10 MiB for each container by default."""
_RESOURCES = [
    *(("requests", name) for name in ("cpu", "memory", "ephemeral-storage")),
    *(("limits", name) for name in ("memory", "ephemeral-storage")),
]
_SAFE_VOLUMES = {"configMap", "emptyDir", "persistentVolumeClaim", "projected", "secret", "downwardAPI"}

Rule = Callable[[Sequence[Object]], Iterator[str]]


def images_are_pinned(objects: Sequence[Object]) -> Iterator[str]:
    """Every image has a tag or digest, and none is `latest`."""
    for pod in pods(objects):
        for container in pod.containers:
            image = container.get("image", "")
            tag = image.rsplit("/", 1)[-1].partition(":")[2]
            if not tag or tag.startswith("latest"):
                yield f"{pod.name}: image {image} has no tag, or the tag latest"


def restricted(objects: Sequence[Object]) -> Iterator[str]:
    """Pod Security `restricted`, and a read-only root filesystem with bounded volumes to write to."""
    for pod in pods(objects):
        context = pod.spec.get("securityContext", {})
        if context.get("runAsNonRoot") is not True or not context.get("runAsUser") or not context.get("runAsGroup"):
            yield f"{pod.name}: may run as root"
        if context.get("seccompProfile", {}).get("type") not in {"RuntimeDefault", "Localhost"}:
            yield f"{pod.name}: has no seccomp profile"
        for name in ("hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"):
            if pod.spec.get(name):
                yield f"{pod.name}: {name}"
        for volume in pod.spec.get("volumes", ()):
            kinds = volume.keys() - {"name"}
            if kinds - _SAFE_VOLUMES:
                yield f"{pod.name}: volume {volume['name']} is of kind {', '.join(kinds)}"
            if "emptyDir" in volume and "sizeLimit" not in (volume["emptyDir"] or {}):
                yield f"{pod.name}: volume {volume['name']} has no sizeLimit"
        for container in pod.containers:
            yield from _restricted_container(pod, container)


def _restricted_container(pod: Pod, container: dict[str, Any]) -> Iterator[str]:
    where, context = f"{pod.name}, container {container['name']}", container.get("securityContext", {})
    wanted = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True}
    for key, value in wanted.items():
        if context.get(key) is not value:
            yield f"{where}: {key} is not {str(value).lower()}"
    if context.get("capabilities") != {"drop": ["ALL"]}:
        yield f"{where}: does not drop all capabilities"
    allowed = {*wanted, "capabilities"}
    if context.keys() - allowed:
        yield f"{where}: sets {', '.join(sorted(context.keys() - allowed))}"
    if any("hostPort" in port for port in container.get("ports", ())):
        yield f"{where}: has a hostPort"
    volumes = {volume["name"] for volume in pod.spec.get("volumes", ())}
    mounts = {mount["name"]: mount["mountPath"] for mount in container.get("volumeMounts", ())}
    if "/tmp" not in mounts.values() or not mounts.keys() <= volumes:
        yield f"{where}: has no writable /tmp, or mounts a volume that does not exist"


def resourced(objects: Sequence[Object]) -> Iterator[str]:
    """Every container requests CPU, memory and disk, and limits memory and disk."""
    for pod in pods(objects):
        for container in pod.containers:
            resources = container.get("resources", {})
            for kind, name in _RESOURCES:
                if not resources.get(kind, {}).get(name):
                    yield f"{pod.name}, container {container['name']}: {kind} have no {name}"


def disks_fit(objects: Sequence[Object]) -> Iterator[str]:
    """A pod may fill its volumes on the node's disk, and still write its log, before it is evicted."""
    for pod in pods(objects):
        volumes = [volume["emptyDir"] or {} for volume in pod.spec.get("volumes", ()) if "emptyDir" in volume]
        sizes = [parse_quantity(one.get("sizeLimit", "0")) for one in volumes if one.get("medium") != "Memory"]
        limits = [
            parse_quantity(container.get("resources", {}).get("limits", {}).get("ephemeral-storage", "0"))
            for container in pod.spec["containers"]
        ]
        if sum(sizes) + _LOG_BYTES > sum(limits):
            yield f"{pod.name}: its volumes and log do not fit into the limit of ephemeral-storage"


def budgets_fit(objects: Sequence[Object]) -> Iterator[str]:
    """What a server may take for one request is within the limit of its container: it is refused, not killed.

    The defaults are those of the settings; checking imported weights takes three times their bytes.
    """
    for pod in pods(objects):
        if pod.component not in {"features", "mmd", "monitoring"}:
            continue
        container = pod.spec["containers"][0]
        limit = parse_quantity(container.get("resources", {}).get("limits", {}).get("memory", "0"))
        variables = environment(container, objects)
        if pod.component == "mmd":
            options = MmdOptions()
            mib = int(variables.get("VFMALIGN_MMD__MEMORY_MIB", options.memory_mib))
            needed = (mib + int(variables.get("VFMALIGN_MMD__CACHE_MIB", options.cache_mib))) * 2**20
        elif pod.component == "monitoring":
            states = MonitoringOptions().memory_bytes
            needed = int(variables.get("VFMALIGN_MONITORING__MEMORY_BYTES", states))
        else:
            weights = int(variables.get("VFMALIGN_FEATURES__MAX_WEIGHTS_BYTES", FeaturesOptions().max_weights_bytes))
            cache = int(variables.get("VFMALIGN_FEATURES__MODEL_CACHE_BYTES", FeaturesOptions().model_cache_bytes))
            needed = max(cache, 3 * weights)
        if needed + _PROCESS_BYTES > limit:
            yield f"{pod.name}: {needed / 2**30:.1f} GiB for a request does not fit into the limit of memory"


def probed(objects: Sequence[Object]) -> Iterator[str]:
    """Every container of a Deployment has three probes; those of vfmalign use gRPC on the health port."""
    for pod in pods(objects):
        if pod.owner["kind"] != "Deployment":
            continue
        for container in pod.spec["containers"]:
            for name in ("startupProbe", "readinessProbe", "livenessProbe"):
                probe = container.get(name)
                if not probe:
                    yield f"{pod.name}, container {container['name']}: {name} is missing"
                elif pod.component in SERVERS:
                    service = "liveness" if name == "livenessProbe" else ""
                    grpc = probe.get("grpc", {})
                    if grpc.get("port") != PORTS["health"] or grpc.get("service", "") != service:
                        yield f"{pod.name}: {name} must query service {service!r} on port 8003"


def ends_in_order(objects: Sequence[Object]) -> Iterator[str]:
    """Servers leave DNS before they drain, and have time to drain."""
    for pod in pods(objects):
        if pod.component not in SERVERS:
            continue
        container = pod.spec["containers"][0]
        wait_s = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        if not wait_s:
            yield f"{pod.name}: has no preStop sleep"
        drain_s = float(environment(container, objects).get("VFMALIGN_SERVER__DRAIN_S", _DEFAULT_DRAIN_S))
        if pod.spec.get("terminationGracePeriodSeconds", 30) <= drain_s + wait_s:
            yield f"{pod.name}: the grace period is not longer than preStop and drain"


def listens(objects: Sequence[Object]) -> Iterator[str]:
    """Servers listen on all addresses, at named ports."""
    for pod in pods(objects):
        if pod.component not in SERVERS:
            continue
        container = pod.spec["containers"][0]
        if {port.get("name"): port["containerPort"] for port in container.get("ports", ())} != PORTS:
            yield f"{pod.name}: ports are not {PORTS}"
        if environment(container, objects).get("VFMALIGN_SERVER__HOST") not in {"0.0.0.0", "::"}:
            yield f"{pod.name}: listens on the loopback interface only"


def environment_has_no_service_links(objects: Sequence[Object]) -> Iterator[str]:
    """Service links, which start with the prefix of the settings, are off; every referenced ConfigMap exists."""
    for pod in pods(objects):
        if pod.spec.get("enableServiceLinks") is not False:
            yield f"{pod.name}: enableServiceLinks is not false"
        for container in pod.containers:
            for source in container.get("envFrom", ()):
                name = source.get("configMapRef", {}).get("name")
                if name and name not in settings_maps(objects):
                    yield f"{pod.name}: no ConfigMap {name}"


POD_RULES: tuple[Rule, ...] = (
    environment_has_no_service_links,
    images_are_pinned,
    restricted,
    resourced,
    disks_fit,
    budgets_fit,
    probed,
    ends_in_order,
    listens,
)
