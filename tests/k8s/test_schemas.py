"""Every rendered object is valid for each supported version of Kubernetes and has no unknown field."""

from __future__ import annotations

import json
import subprocess

import kubernetes_validate
import pytest
import yaml
from tests.k8s.rendering import COMPOSITIONS, JOBS_NAMESPACE, K8S, NAMESPACE, Object, describe, render

# The lowest supported version (k8s/README.md), one in between, and the latest with a schema.
VERSIONS = ("1.30", "1.34", "1.37")

# Kinds of operators have no schema in Kubernetes. All other kinds must be validated.
NOT_VALIDATED = {
    ("monitoring.coreos.com/v1", "PodMonitor"),
    ("monitoring.coreos.com/v1", "PrometheusRule"),
    ("kueue.x-k8s.io/v1beta2", "LocalQueue"),
}


def _errors(item: Object, version: str) -> str:
    try:
        kubernetes_validate.validate(item, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return f"{describe(item)}: {'.'.join(str(part) for part in error.path)}: {error.message}"
    return ""


@pytest.fixture(scope="module")
def objects() -> list[Object]:
    """Return the distinct objects of all compositions."""
    distinct = {json.dumps(item, sort_keys=True): item for name in COMPOSITIONS for item in render(name)}
    return list(distinct.values())


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_valid(objects: list[Object], version: str) -> None:
    own = [item for item in objects if (item["apiVersion"], item["kind"]) not in NOT_VALIDATED]
    assert [error for item in own if (error := _errors(item, version))] == []


def test_only_the_listed_kinds_are_not_validated(objects: list[Object]) -> None:
    kinds = {(item["apiVersion"], item["kind"]) for item in objects}
    assert {kind for kind in kinds if "." in kind[0] and not kind[0].split("/")[0].endswith(".k8s.io")} | {
        kind for kind in kinds if kind[0].startswith("kueue")
    } == NOT_VALIDATED


def test_a_misspelt_field_is_found(objects: list[Object]) -> None:
    template = next(item for item in objects if item["kind"] == "PodTemplate")
    template["template"]["spec"]["containers"][0]["securityContex"] = {}
    try:
        assert "securityContex" in _errors(template, VERSIONS[0])
    finally:
        del template["template"]["spec"]["containers"][0]["securityContex"]


def test_the_local_credentials_are_secrets_of_both_namespaces_with_one_password() -> None:
    command = [K8S / "overlays/local/credentials.sh"]
    runs = [
        list(yaml.safe_load_all(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
        for _ in range(2)
    ]
    store, training, database = runs[0]
    assert [_errors(item, VERSIONS[0]) for item in runs[0]] == [""] * 3
    assert [item["metadata"]["namespace"] for item in runs[0]] == [NAMESPACE, JOBS_NAMESPACE, NAMESPACE]
    for item in (store, training):
        assert item["stringData"].keys() == {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    password = database["stringData"]["POSTGRES_PASSWORD"]
    assert len(password) == 48
    assert f":{password}@vfmalign-postgresql:5432/" in database["stringData"]["VFMALIGN_DATABASE__URL"]
    assert runs[0] != runs[1]
