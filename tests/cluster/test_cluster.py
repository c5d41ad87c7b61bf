"""One alignment check on a real cluster, with pods taken away in the middle. `make test-cluster` runs it.

Needs KUBECONFIG, kubectl, a cluster that may be littered for a quarter of an hour, and the images on its nodes. OVERLAY
names the kustomization, CLI_IMAGE the client's image. Nodes without a GPU behind `nvidia.com/gpu` will do with CPU
images.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cluster.deployment import NAMESPACE, ROOT, Deployment, get, names, pool, until

DATASET, MODEL, PRETRAINING, CHECK = "phantoms", "micro", "pretrain-micro", "cluster"
RECIPE = ("--preset", "demo", "--steps-per-epoch", "8")

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(
        not (os.environ.get("OVERLAY") and os.environ.get("KUBECONFIG") and shutil.which("kubectl")),
        reason="make test-cluster runs it, with KUBECONFIG and kubectl",
    ),
]


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """vfmalign on the cluster."""
    assert NAMESPACE not in names(get("get", "namespaces")), f"namespace {NAMESPACE} is in use: delete it first"
    found = Deployment(ROOT / os.environ["OVERLAY"], Path(tmp_path_factory.mktemp("cluster")))
    try:
        found.up()
        yield found
    finally:
        print(found.describe())
        found.down()


def test_a_check_survives_what_happens_to_its_pods(deployment: Deployment) -> None:
    counts = ("--pretrain", "8", "--train", "8", "--val", "4", "--test", "13")
    deployment.run("phantoms", "dataset", "phantoms", "--id", DATASET, "--seed", "1", *counts)

    # Somebody deletes the pod of a job: the attempt has failed, and the next one resumes.
    client = deployment.start(
        "pretrain", "models", "pretrain", DATASET, "--job", PRETRAINING, "--id", MODEL, "--seed", "1",
        "--epochs", "60", *RECIPE,
    )  # fmt: skip
    deployment.delete(deployment.training(PRETRAINING))
    deployment.result(client)
    job = deployment.ask("job", "jobs", "show", PRETRAINING)
    assert (job["state"], job["attempts"]) == ("JOB_STATE_SUCCEEDED", 2)

    # A node is drained under another: its Job has a new pod, and nothing counts. Nor do rollouts of the services.
    deployment.run(
        "check", "check", DATASET, "--id", CHECK, "--task", "segmentation", "--model", MODEL, "--seed", "7",
        "--epochs", "40", "--permutations", "199", "--bootstrap", "500", *RECIPE, "--no-wait",
    )  # fmt: skip
    drained = first_of_check(deployment)
    deployment.drain(deployment.training(drained))
    deployment.training(drained, epochs=1)
    deployment.roll("finetuning", "restart")
    deployment.roll("mmd", "restart")
    deployment.roll("mmd", "undo")

    check = until(lambda: ended(deployment.ask("show", "checks", "show", CHECK)["check"]), 1800.0)
    assert check["state"] == "CHECK_STATE_SUCCEEDED", check["status"]
    assert check["result"]["report_html"]["uri"].startswith("s3://")
    job = deployment.ask("drained", "jobs", "show", drained)
    assert (job["state"], job["attempts"]) == ("JOB_STATE_SUCCEEDED", 1), "the Job replaced its pod by itself"

    where_jobs_ran(deployment)
    jobs = names(get("-n", NAMESPACE, "get", "jobs", "-l", "vfmalign.io/job"))
    assert len(jobs) == 5, "pretraining twice, and three networks of the check"


def ended(check: dict) -> dict | None:
    """The check, if it has ended."""
    return check if check["state"].removeprefix("CHECK_STATE_") in {"SUCCEEDED", "FAILED", "CANCELLED"} else None


def first_of_check(deployment: Deployment) -> str:
    """Id of the check's first job."""

    def look() -> str | None:
        jobs = [pod["metadata"]["annotations"]["vfmalign.io/job-id"] for pod in deployment.training_pods()]
        return next((job for job in jobs if job != PRETRAINING), None)

    return until(look, 600.0)


def where_jobs_ran(deployment: Deployment) -> None:
    """Training runs on the GPU pool where there is one, and holds a GPU there."""
    gpus = {node["metadata"]["name"] for node in pool() if int(node["status"]["allocatable"].get("nvidia.com/gpu", 0))}
    pods = deployment.training_pods()
    assert pods, "ended Jobs are kept for a day"
    for pod in pods if gpus else []:
        assert pod["spec"]["nodeName"] in gpus
        assert pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
