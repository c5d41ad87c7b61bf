"""Policy for pods on a GPU pool, and the GPUs that rendered manifests request."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tests.k8s.rendering import Object, pods

ON_GPU = ("features", "mmd", "training")
KEY = "nvidia.com/gpu"


def gpus(objects: Sequence[Object]) -> dict[str, dict[str, str]]:
    """Returns the NVIDIA resources that the pods of each component request."""
    requested: dict[str, dict[str, str]] = {}
    for pod in pods(objects):
        for container in pod.containers:
            for amounts in container.get("resources", {}).values():
                taken = {name: str(amount) for name, amount in amounts.items() if name.startswith("nvidia.com/")}
                if taken:
                    requested.setdefault(pod.component, {}).update(taken)
    return requested


def gpu_violations(objects: Sequence[Object]) -> list[str]:
    """Returns violations: pods that cannot run on a GPU pool, or rollouts that would wait for a GPU indefinitely."""
    return list(_violations(objects))


def _violations(objects: Sequence[Object]) -> Iterator[str]:
    taken = gpus(objects)
    if taken.keys() != set(ON_GPU):
        yield f"GPUs are requested by {sorted(taken)}, expected {sorted(ON_GPU)}"
    for pod in pods(objects):
        if pod.component not in ON_GPU:
            continue
        if list(taken.get(pod.component, {}).values()) != ["1"]:
            yield f"{pod.name}: must request one GPU, requests {taken.get(pod.component)}"
        affinity = pod.spec.get("affinity", {}).get("nodeAffinity", {})
        required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution", {})
        keys = {one["key"] for term in required.get("nodeSelectorTerms", ()) for one in term["matchExpressions"]}
        if not {"nvidia.com/gpu.present", KEY} <= keys:
            yield f"{pod.name}: may be scheduled outside the GPU pool"
        if {"key": KEY, "operator": "Exists"} not in pod.spec.get("tolerations", ()):
            yield f"{pod.name}: does not tolerate the taint {KEY}"
        if pod.owner["kind"] == "Deployment":
            if pod.owner["spec"]["strategy"].get("rollingUpdate") != {"maxSurge": 0, "maxUnavailable": 1}:
                yield f"{pod.name}: a rollout would wait for the GPU that the old pod holds"
            spread = pod.spec.get("topologySpreadConstraints", [{}])
            if spread[0].get("topologyKey") != "kubernetes.io/hostname":
                yield f"{pod.name}: replicas are not spread across nodes"
