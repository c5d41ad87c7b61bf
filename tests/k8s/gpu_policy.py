"""What pods on a GPU pool must keep to, and how to tell that a rendering needs no GPU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tests.k8s.rendering import Object, pods

ON_GPU = ("features", "mmd", "training")
KEY = "nvidia.com/gpu"


def gpus(objects: Sequence[Object]) -> dict[str, dict[str, str]]:
    """NVIDIA's resources that the pods of each component take."""
    found: dict[str, dict[str, str]] = {}
    for pod in pods(objects):
        for container in pod.containers:
            for amounts in container.get("resources", {}).values():
                taken = {name: str(amount) for name, amount in amounts.items() if name.startswith("nvidia.com/")}
                if taken:
                    found.setdefault(pod.component, {}).update(taken)
    return found


def gpu_violations(objects: Sequence[Object]) -> list[str]:
    """What keeps pods from a GPU pool, or would make a rollout wait for a GPU for ever."""
    return list(_violations(objects))


def _violations(objects: Sequence[Object]) -> Iterator[str]:
    taken = gpus(objects)
    if taken.keys() != set(ON_GPU):
        yield f"GPUs are taken by {sorted(taken)}, not by {sorted(ON_GPU)}"
    for pod in pods(objects):
        if pod.component not in ON_GPU:
            continue
        if list(taken.get(pod.component, {}).values()) != ["1"]:
            yield f"{pod.name}: does not take one GPU, but {taken.get(pod.component)}"
        affinity = pod.spec.get("affinity", {}).get("nodeAffinity", {})
        required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution", {})
        keys = {one["key"] for term in required.get("nodeSelectorTerms", ()) for one in term["matchExpressions"]}
        if not {"nvidia.com/gpu.present", KEY} <= keys:
            yield f"{pod.name}: may land outside the GPU pool"
        if {"key": KEY, "operator": "Exists"} not in pod.spec.get("tolerations", ()):
            yield f"{pod.name}: does not tolerate the taint {KEY}"
        if pod.owner["kind"] == "Deployment":
            if pod.owner["spec"]["strategy"].get("rollingUpdate") != {"maxSurge": 0, "maxUnavailable": 1}:
                yield f"{pod.name}: a rollout waits for a GPU that the old pod holds"
            spread = pod.spec.get("topologySpreadConstraints", [{}])
            if spread[0].get("topologyKey") != "kubernetes.io/hostname":
                yield f"{pod.name}: replicas are not spread over nodes"
