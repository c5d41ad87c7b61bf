"""The deployment that `make test-cluster` tests, on an emulated cluster: what it applies, and what it waits for."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cluster.deployment import GPU, Deployment
from tests.k8s.emulated.cluster import Cluster
from tests.k8s.emulated.server import serve
from tests.k8s.rendering import JOBS_NAMESPACE, K8S, NAMESPACE, Object, environment, pods, render, render_folder

from vfmalign.core.storage.store.access import STORE_ACCESS

OVERLAY = K8S / "overlays" / "local"


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A cluster to which kubectl of this process connects."""
    cluster = Cluster()
    monkeypatch.setenv("HOME", str(tmp_path))
    with serve(cluster, tmp_path) as kubeconfig:
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
        yield cluster


def add_node(cluster: Cluster, name: str, gpus: int) -> None:
    """Lets a node join; one with GPUs belongs to the pool."""
    labels = {"nvidia.com/gpu.present": "true"} if gpus else {}
    metadata = {"name": name, "labels": labels}
    status = {"allocatable": {"cpu": "4"} | ({GPU: str(gpus)} if gpus else {})}
    cluster.put({"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": {}, "status": status})


def set_ready(cluster: Cluster, ready: int) -> None:
    """Lets the pods of every Deployment become ready. With `maxUnavailable: 1`, none has to be for `Available`."""
    for item in cluster.list("Deployment"):
        counts = {"replicas": 1, "updatedReplicas": 1, "readyReplicas": ready, "availableReplicas": ready}
        conditions = [{"type": "Available", "status": "True"}]
        item["metadata"]["generation"] = 1
        item["status"] = counts | {"observedGeneration": 1, "unavailableReplicas": 1 - ready, "conditions": conditions}
        cluster.put(item)


def test_it_waits_for_ready_pods_and_not_for_the_condition_available(cluster: Cluster, tmp_path: Path) -> None:
    cluster.rolls_out = False
    cluster.add(render("overlays/gpu"))
    deployment = Deployment(OVERLAY, tmp_path, rollout_timeout_s=2)
    set_ready(cluster, 0)
    with pytest.raises(AssertionError, match="timed out"):
        deployment.wait_for_rollout()
    timer = threading.Timer(1.0, set_ready, (cluster, 1))
    timer.start()
    Deployment(OVERLAY, tmp_path, rollout_timeout_s=60).wait_for_rollout()
    timer.join()


def test_it_ends_with_a_doctor_and_leaves_nothing(cluster: Cluster, tmp_path: Path) -> None:
    add_node(cluster, "node", 0)
    deployment = Deployment(OVERLAY, tmp_path)
    deployment.up()
    commands = [pod["spec"]["containers"][0].get("args") for pod in cluster.list("Pod") if _is_client(pod)]
    assert commands == [["doctor"]], "the overlay creates the bucket itself"
    stores = ("store", *(f"store-{workload}" for workload in STORE_ACCESS))
    secrets = {f"vfmalign-{name}" for name in (*stores, "s3", "database", "database-monitoring")}
    assert {name for _, kind, name in cluster.changes if kind == "Secret"} == secrets
    deployment.down()
    assert {key[0] for key in cluster.objects} == {"Node"}


def _is_client(pod: Object) -> bool:
    return pod["metadata"]["labels"]["app.kubernetes.io/component"] == "client"


@pytest.mark.parametrize(
    ("nodes", "gpus", "on_gpus"),
    [
        ([0], 1, set()),
        ([0], 2, set()),
        ([1], 1, {"training"}),
        ([2, 0], 2, {"training"}),
        ([3], 1, {"features", "mmd", "training"}),
        ([3], 2, {"training"}),
        ([2, 2], 2, {"features", "mmd", "training"}),
    ],
)
def test_a_job_has_as_many_processes_as_gpus(
    cluster: Cluster, tmp_path: Path, nodes: list[int], gpus: int, on_gpus: set[str]
) -> None:
    for number, count in enumerate(nodes):
        add_node(cluster, f"node{number}", count)
    objects = render_folder(Deployment(OVERLAY, tmp_path, gpus)._composed())
    requested = {
        pod.component: pod.containers[-1]["resources"]["limits"][GPU]
        for pod in pods(objects)
        if GPU in pod.containers[-1]["resources"]["limits"]
    }
    assert requested == {name: gpus if name == "training" else 1 for name in on_gpus}
    (orchestrator,) = (pod for pod in pods(objects) if pod.component == "finetuning")
    settings = environment(orchestrator.spec["containers"][0], objects)
    assert settings["VFMALIGN_LAUNCHER__PROCESSES_PER_NODE"] == str(gpus)
    assert {item["metadata"].get("namespace", "") for item in objects} == {"", NAMESPACE, JOBS_NAMESPACE}


def test_a_job_that_fits_no_node_is_refused_at_once(cluster: Cluster, tmp_path: Path) -> None:
    for name in "ab":
        add_node(cluster, name, 1)
    with pytest.raises(AssertionError, match=r"no node has 2 GPUs\. Run with GPUS=1 or less"):
        Deployment(OVERLAY, tmp_path, 2).up()
    assert cluster.list("Deployment") == []


def test_killed_pods_are_those_of_one_service(cluster: Cluster, tmp_path: Path) -> None:
    add_node(cluster, "node", 0)
    deployment = Deployment(OVERLAY, tmp_path)
    deployment.up()
    before = {pod["metadata"]["name"] for pod in cluster.list("Pod", NAMESPACE)}
    deployment.kill("monitoring")
    gone = before - {pod["metadata"]["name"] for pod in cluster.list("Pod", NAMESPACE)}
    assert {name.rpartition("-revision")[0] for name in gone} == {"vfmalign-monitoring"}
