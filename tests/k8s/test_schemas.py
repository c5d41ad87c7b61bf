"""Every rendered object is valid for each supported version of Kubernetes and has no unknown field."""

from __future__ import annotations

import json

import kubernetes_validate
import pytest
from tests.k8s.rendering import COMPOSITIONS, Object, describe, render

# The lowest supported version (k8s/README.md), one in between, and the latest with a schema.
VERSIONS = ("1.30", "1.34", "1.37")

# Kinds of operators have no schema in Kubernetes. All other kinds must be validated.
NOT_VALIDATED = {
    ("monitoring.coreos.com/v1", "PodMonitor"),
    ("monitoring.coreos.com/v1", "PrometheusRule"),
    ("kueue.x-k8s.io/v1beta2", "LocalQueue"),
}


def list_errors(item: Object, version: str) -> str:
    """Returns what a version of Kubernetes finds wrong with an object; empty if nothing."""
    try:
        kubernetes_validate.validate(item, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return f"{describe(item)}: {'.'.join(str(part) for part in error.path)}: {error.message}"
    return ""


@pytest.fixture(scope="module")
def objects() -> list[Object]:
    """Returns the distinct objects of all compositions."""
    distinct = {json.dumps(item, sort_keys=True): item for name in COMPOSITIONS for item in render(name)}
    return list(distinct.values())


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_valid(objects: list[Object], version: str) -> None:
    own = [item for item in objects if (item["apiVersion"], item["kind"]) not in NOT_VALIDATED]
    assert [error for item in own if (error := list_errors(item, version))] == []


def test_only_the_listed_kinds_are_not_validated(objects: list[Object]) -> None:
    kinds = {(item["apiVersion"], item["kind"]) for item in objects}
    assert {kind for kind in kinds if "." in kind[0] and not kind[0].split("/")[0].endswith(".k8s.io")} | {
        kind for kind in kinds if kind[0].startswith("kueue")
    } == NOT_VALIDATED
