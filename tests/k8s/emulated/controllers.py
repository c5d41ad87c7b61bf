"""Controllers of an emulated cluster: Deployments get a status, ReplicaSets and pods; Jobs and pods run at once."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from tests.k8s.rendering import Object

if TYPE_CHECKING:
    from tests.k8s.emulated.cluster import Cluster

REVISION = "deployment.kubernetes.io/revision"
HASH = "pod-template-hash"


def react(cluster: Cluster, item: Object, before: Object | None) -> None:
    """Lets the controller of an object's kind react to its creation or change."""
    if item["kind"] == "Deployment" and cluster.rolls_out:
        _roll_out(cluster, item)
    if item["kind"] == "Job" and before is None:
        _run_job(cluster, item)
    if item["kind"] == "Pod" and before is None:
        item.setdefault("status", {"phase": "Succeeded"})


def _roll_out(cluster: Cluster, item: Object) -> None:
    spec, metadata = item["spec"], item["metadata"]
    replicas = spec.setdefault("replicas", 1)
    sets = [one for one in cluster.list("ReplicaSet", metadata["namespace"]) if _is_owned(one, item)]
    current = next((one for one in sets if _get_template(one) == spec["template"]), None)
    revision = max((int(one["metadata"]["annotations"][REVISION]) for one in sets), default=0)
    if current is None or int(current["metadata"]["annotations"][REVISION]) < revision:
        revision += 1
    if current is None:
        current = _new_replica_set(item, revision)
    current["metadata"]["annotations"][REVISION] = str(revision)
    cluster.put(current)
    for pod in cluster.list("Pod", metadata["namespace"]):
        owner = pod["metadata"].get("ownerReferences", [{}])[0].get("name")
        if owner in {one["metadata"]["name"] for one in sets} - ({current["metadata"]["name"]} if replicas else set()):
            cluster.remove(("Pod", metadata["namespace"], pod["metadata"]["name"]))
    if replicas:
        cluster.put(_new_pod(current, f"{current['metadata']['name']}-a", "Running"))
    metadata.setdefault("annotations", {})[REVISION] = str(revision)
    metadata["generation"] = revision
    counts = ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas")
    item["status"] = {"observedGeneration": revision} | dict.fromkeys(counts, replicas)


def _new_replica_set(deployment: Object, revision: int) -> Object:
    metadata = deployment["metadata"]
    template = copy.deepcopy(deployment["spec"]["template"])
    template["metadata"].setdefault("labels", {})[HASH] = f"revision{revision}"
    return {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {
            "name": f"{metadata['name']}-revision{revision}",
            "namespace": metadata["namespace"],
            "labels": template["metadata"]["labels"],
            "annotations": {REVISION: str(revision)},
            "ownerReferences": [_refer_to(deployment)],
        },
        "spec": {"replicas": 1, "selector": deployment["spec"]["selector"], "template": template},
    }


def _get_template(replica_set: Object) -> Object:
    template: Object = copy.deepcopy(replica_set["spec"]["template"])
    del template["metadata"]["labels"][HASH]
    return template


def _run_job(cluster: Cluster, job: Object) -> None:
    """Runs every pod of a Job to its success."""
    uid = job["metadata"]["uid"]
    job["spec"]["selector"] = {"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}
    labels = job["spec"]["template"].setdefault("metadata", {}).setdefault("labels", {})
    labels |= {"batch.kubernetes.io/controller-uid": uid, "batch.kubernetes.io/job-name": job["metadata"]["name"]}
    for index in range(job["spec"].get("completions", 1)):
        cluster.put(_new_pod(job, f"{job['metadata']['name']}-{index}", "Succeeded", str(index)))
    job["status"] = {"conditions": [{"type": kind, "status": "True"} for kind in ("SuccessCriteriaMet", "Complete")]}


def _new_pod(owner: Object, name: str, phase: str, index: str = "") -> Object:
    template = copy.deepcopy(owner["spec"]["template"])
    labels = template["metadata"]["labels"] | ({"batch.kubernetes.io/job-completion-index": index} if index else {})
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": owner["metadata"]["namespace"],
            "labels": labels,
            "ownerReferences": [_refer_to(owner)],
        },
        "spec": template["spec"] | {"nodeName": "NODE"},
        "status": {"phase": phase, "conditions": [{"type": "Ready", "status": str(phase == "Running")}]},
    }


def _refer_to(owner: Object) -> Object:
    metadata = owner["metadata"]
    names = {"name": metadata["name"], "uid": metadata["uid"]}
    return {"apiVersion": owner["apiVersion"], "kind": owner["kind"], "controller": True, **names}


def _is_owned(item: Object, owner: Object) -> bool:
    return owner["metadata"]["uid"] in {one["uid"] for one in item["metadata"].get("ownerReferences", ())}
