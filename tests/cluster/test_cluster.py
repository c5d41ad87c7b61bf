"""Run one alignment check and a monitor on a real cluster while pods are deleted. `make test-cluster` runs it.

Needs KUBECONFIG, kubectl, a test cluster for a quarter of an hour, and the images on its nodes. OVERLAY names the
kustomization, CLI_IMAGE the client's image (a build of `cli-imaging`, which generates the phantoms), CLUSTER_EPOCHS the
epochs of every training, and GPUS the processes of every training job: one GPU each where nodes offer `nvidia.com/gpu`.
With CPU images, such nodes need no GPU.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.deployment import JOBS_NAMESPACE, NAMESPACE, ROOT, Deployment, get, names, pool, until
from tests.monitor_program import COUNTS, EARLY_ROWS, PROGRAM, ROWS, check_undisturbed

DATASET, MODEL, PRETRAINING, CHECK = "phantoms", "micro", "pretrain-micro", "cluster"
EPOCHS, GPUS = int(os.environ.get("CLUSTER_EPOCHS", "40")), int(os.environ.get("GPUS", "1"))
MIN_EPOCHS = 8
"""A training must last long enough to be interrupted after its second epoch."""
RECIPE = ("--preset", "demo", "--steps-per-epoch", "8", "--epochs", str(EPOCHS))

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(
        not (os.environ.get("OVERLAY") and os.environ.get("KUBECONFIG") and shutil.which("kubectl")),
        reason="run by make test-cluster, with KUBECONFIG and kubectl",
    ),
]


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Deploys vfmalign on the cluster."""
    existing = {NAMESPACE, JOBS_NAMESPACE} & set(names(get("get", "namespaces")))
    assert not existing, f"namespace {', '.join(existing)} exists. Delete it first"
    assert EPOCHS >= MIN_EPOCHS, f"CLUSTER_EPOCHS is {EPOCHS}. Set it to {MIN_EPOCHS} or more"
    deployed = Deployment(ROOT / os.environ["OVERLAY"], Path(tmp_path_factory.mktemp("cluster")), GPUS)
    try:
        deployed.up()
        yield deployed
    finally:
        print(deployed.describe())
        deployed.down()


def test_a_check_survives_the_loss_of_its_pods(deployment: Deployment) -> None:
    counts = ("--cases", "pretrain=8", "--cases", "train=8", "--cases", "val=4", "--cases", "test=13")
    deployment.run("phantoms", "dataset", "phantoms", "--id", DATASET, "--seed", "1", *counts)

    # A user deletes the pod of a job: the attempt has failed, and the next one resumes.
    client = deployment.start(
        "pretrain", "models", "pretrain", DATASET, "--job", PRETRAINING, "--id", MODEL, "--seed", "1", *RECIPE,
    )  # fmt: skip
    deployment.delete(deployment.training(PRETRAINING))
    deployment.result(client)
    job = deployment.get_job(PRETRAINING)
    assert (job["state"], job["attempts"]) == ("JOB_STATE_SUCCEEDED", 2)

    # The node of another job is drained: its Job replaces the pod; several processes begin another attempt. No failure
    # counts, nor do rollouts of services.
    deployment.run(
        "check", "check", DATASET, "--id", CHECK, "--task", "segmentation", "--model", MODEL, "--seed", "7",
        "--seeds", "1", "--set", "recipe.learning_rate=8e-3", "--permutations", "199", "--bootstrap", "500", *RECIPE,
        "--no-wait",
    )  # fmt: skip
    drained = first_of_check(deployment)
    deployment.drain(deployment.training(drained))
    deployment.training(drained, epochs=1)
    deployment.roll("finetuning", "restart")
    deployment.roll("mmd", "restart")
    deployment.roll("mmd", "undo")

    check = until(lambda: ended(deployment.get_check(CHECK)), 1800.0)
    assert check["state"] == "CHECK_STATE_SUCCEEDED", check.get("progress")
    assert check["result"]["report_html"]["uri"].startswith("s3://")
    job = deployment.get_job(drained)
    attempts = 1 if GPUS == 1 else 2
    assert (job["state"], job["attempts"]) == ("JOB_STATE_SUCCEEDED", attempts), "the Job must replace its pod itself"

    assert_jobs_used_the_gpu_pool(deployment)
    jobs = names(get("-n", JOBS_NAMESPACE, "get", "jobs", "-l", "vfmalign.io/job"))
    assert len(jobs) == 4 + attempts, "two attempts of the pretraining and three networks of the check"


def test_a_monitor_survives_the_loss_of_its_pods(deployment: Deployment) -> None:
    dataset = "monitored"
    deployment.run("monitored", "dataset", "phantoms", "--id", dataset, "--seed", "2", *COUNTS)
    sets = [
        deployment.ask("extract", "extract", dataset, "--model", MODEL, "--split", split)["feature_set"][
            "feature_set_id"
        ]
        for split in ("train", "test")
    ]

    def observe(monitor: str, rows: int) -> Any:
        log = deployment.run("monitor", monitor, *sets, str(rows), command=["python", "-c", PROGRAM])
        return json.loads(log.splitlines()[-1])

    observe("killed", EARLY_ROWS)
    deployment.roll("monitoring", "restart")
    deployment.kill("monitoring")
    check_undisturbed(observe("killed", ROWS), observe("whole", ROWS))


def ended(check: dict) -> dict | None:
    """Returns the check if it has finished."""
    return check if check["state"].removeprefix("CHECK_STATE_") in {"SUCCEEDED", "FAILED", "CANCELLED"} else None


def first_of_check(deployment: Deployment) -> str:
    """Returns the id of the check's first job."""

    def look() -> str | None:
        jobs = [pod["metadata"]["annotations"]["vfmalign.io/job-id"] for pod in deployment.training_pods()]
        return next((job for job in jobs if job != PRETRAINING), None)

    return until(look, 600.0)


def assert_jobs_used_the_gpu_pool(deployment: Deployment) -> None:
    """Training runs on the GPU pool, if there is one, and requests a GPU."""
    gpus = {node["metadata"]["name"] for node in pool() if int(node["status"]["allocatable"].get("nvidia.com/gpu", 0))}
    pods = deployment.training_pods()
    assert pods, "finished Jobs must be kept for a day"
    for pod in pods if gpus else []:
        assert pod["spec"]["nodeName"] in gpus
        assert pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == str(GPUS)
