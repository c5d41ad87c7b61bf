"""The Secrets of the overlay `local`: every workload has keys of its own, and the S3 server knows what each may do."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import yaml
from tests.k8s.rendering import JOBS_NAMESPACE, K8S, NAMESPACE, Object, pods, render
from tests.k8s.test_schemas import VERSIONS, list_errors

from vfmalign.cli.local import s3_configuration
from vfmalign.core.storage.store.access import STORE_ACCESS

DATABASES = {"vfmalign-database": "vfmalign", "vfmalign-database-monitoring": "vfmalign_monitoring"}
"""The Secrets of databases, and the names of these on the server."""
SECRETS = [f"vfmalign-store{suffix}" for suffix in ("", *(f"-{workload}" for workload in STORE_ACCESS))]


def run(*arguments: str) -> list[Object]:
    """Returns the Secrets of one run of the script."""
    command = [str(K8S / "overlays/local/credentials.sh"), *arguments]
    return list(yaml.safe_load_all(subprocess.run(command, capture_output=True, text=True, check=True).stdout))


@pytest.fixture(scope="module")
def secrets() -> dict[str, Object]:
    """The Secrets by name."""
    return {item["metadata"]["name"]: item for item in run()}


def test_they_are_valid_secrets_of_both_namespaces_and_drawn_at_random(secrets: dict[str, Object]) -> None:
    assert secrets.keys() == {*SECRETS, "vfmalign-s3", *DATABASES}
    assert [error for item in secrets.values() if (error := list_errors(item, VERSIONS[0]))] == []
    for name, item in secrets.items():
        assert item["metadata"]["namespace"] == (JOBS_NAMESPACE if name == "vfmalign-store-training" else NAMESPACE)
    pairs = [tuple(secrets[name]["stringData"].values()) for name in SECRETS]
    assert all(len(value) == 48 for pair in pairs for value in pair)
    assert len({value for pair in pairs for value in pair}) == 2 * len(SECRETS)
    assert secrets["vfmalign-database"] not in run()
    assert [item["metadata"]["name"] for item in run("store")] == [*SECRETS, "vfmalign-s3"]


def test_the_s3_server_allows_each_workload_what_it_needs(
    secrets: dict[str, Object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {}
    for name in SECRETS:
        data = secrets[name]["stringData"]
        assert data.keys() == {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
        keys[name] = {"access_key": data["AWS_ACCESS_KEY_ID"], "secret_key": data["AWS_SECRET_ACCESS_KEY"]}
    needs = {f"vfmalign-store-{workload}": access.of_tenants(["default"]) for workload, access in STORE_ACCESS.items()}
    monkeypatch.setattr(s3_configuration, "SERVICE_ACCESS", needs)
    s3_configuration.write_identities(tmp_path, keys["vfmalign-store"], keys)
    expected = json.loads((tmp_path / "identities.json").read_text())["identities"]
    expected[0]["name"] = "vfmalign-store"
    found = json.loads(secrets["vfmalign-s3"]["stringData"]["identities.json"])["identities"]
    assert sorted(found, key=lambda one: one["name"]) == sorted(expected, key=lambda one: one["name"])


def test_the_s3_server_reads_its_identities_and_no_keys_of_a_client() -> None:
    (server,) = (
        item["spec"]["template"]["spec"]
        for item in render("overlays/local")
        if item["kind"] == "Deployment" and item["metadata"]["name"] == "vfmalign-s3"
    )
    (container,) = server["containers"]
    assert "env" not in container
    (argument,) = container["args"]
    (mount,) = (one for one in container["volumeMounts"] if one["name"] == "identities")
    assert argument == f"-s3.config={mount['mountPath']}/identities.json"
    (volume,) = (one for one in server["volumes"] if one["name"] == "identities")
    assert volume["secret"]["secretName"] == "vfmalign-s3"


def test_the_addresses_of_the_databases_have_the_password(secrets: dict[str, Object]) -> None:
    password = secrets["vfmalign-database"]["stringData"]["POSTGRES_PASSWORD"]
    assert len(password) == 48
    for secret, database in DATABASES.items():
        url = secrets[secret]["stringData"]["VFMALIGN_DATABASE__URL"]
        assert url == f"postgresql://vfmalign:{password}@vfmalign-postgresql:5432/{database}"


def test_each_service_with_a_database_has_one_of_its_own() -> None:
    used = {
        (pod.component, variable["valueFrom"]["secretKeyRef"]["name"])
        for pod in pods(render("overlays/local"))
        for container in pod.containers
        for variable in container.get("env", ())
        if variable["name"] == "VFMALIGN_DATABASE__URL"
    }
    assert used == {("finetuning", "vfmalign-database"), ("monitoring", "vfmalign-database-monitoring")}
