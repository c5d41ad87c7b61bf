"""The overlay `local` ends with a bucket: its init container runs here, on a real S3 server."""

from __future__ import annotations

import secrets
import subprocess
import sys
from typing import Any

import pytest
from tests.k8s.rendering import environment, pods, render

from vfmalign.cli.local.s3_server import S3Server
from vfmalign.core.runtime.settings import StoreSettings
from vfmalign.core.storage.store.object_store import ObjectStore

IMAGE = "vfmalign/cli"


@pytest.fixture
def container() -> dict[str, Any]:
    """The init container of the orchestrator, whose pod is not ready before it has ended."""
    (orchestrator,) = (pod for pod in pods(render("overlays/local")) if pod.component == "finetuning")
    (container,) = orchestrator.spec["initContainers"]
    return container


def test_the_orchestrator_waits_for_the_bucket(s3: S3Server, container: dict[str, Any]) -> None:
    assert container["image"].startswith(f"{IMAGE}:")
    assert "command" not in container, "the image's entry point is the program vfmalign"
    variables = environment(container, render("overlays/local"))
    # What the cluster provides: the address behind the Service's name, and the values of the Secret.
    assert variables["AWS_ENDPOINT_URL_S3"] == "http://vfmalign-s3:8333"
    assert variables["AWS_REGION"]
    bucket = f"local-{secrets.token_hex(4)}"
    variables |= s3.environment() | {"VFMALIGN_BUCKET": bucket}
    wanted = {one["name"] for one in container["env"] if "valueFrom" in one}
    assert wanted == {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    command = [sys.executable, "-m", "vfmalign.cli", *container["args"]]
    paths = {"PYTHONPATH": ":".join(sys.path)}
    for _ in range(2):
        result = subprocess.run(command, env=variables | paths, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
    assert ObjectStore(StoreSettings(
        bucket=bucket, endpoint=s3.endpoint, access_key=s3.access_key, secret_key=s3.secret_key
    )).has_bucket()  # fmt: skip


@pytest.mark.parametrize("name", ["overlays/cpu", "overlays/gpu"])
def test_elsewhere_nobody_creates_buckets(name: str) -> None:
    assert not any(container["image"].startswith(IMAGE) for pod in pods(render(name)) for container in pod.containers)
