"""Credentials of the store: with service-credentials every workload reads its own Secret, with web-identity none."""

from __future__ import annotations

import pytest
from tests.k8s.rendering import pods, render

from vfmalign.core.storage.store.access import STORE_ACCESS


@pytest.mark.parametrize("name", ["cpu-with-service-credentials", "overlays/local"])
def test_every_workload_has_the_secret_of_its_service(name: str) -> None:
    objects = render(name)
    templates = {item["metadata"]["name"]: item["spec"]["template"] for item in objects if item["kind"] == "Deployment"}
    templates |= {item["metadata"]["name"]: item["template"] for item in objects if item["kind"] == "PodTemplate"}
    for service in STORE_ACCESS:
        for container in templates[f"vfmalign-{service}"]["spec"]["containers"]:
            keys = {
                variable["name"]: variable["valueFrom"]["secretKeyRef"]
                for variable in container["env"]
                if variable["name"].startswith("AWS_")
            }
            assert keys == {
                name: {"name": f"vfmalign-store-{service}", "key": name}
                for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
            }


def test_with_a_web_identity_no_workload_has_static_keys() -> None:
    for pod in pods(render("cpu-with-web-identity")):
        for container in pod.containers:
            assert not [one["name"] for one in container.get("env", ()) if one["name"].startswith("AWS_")], pod.name
