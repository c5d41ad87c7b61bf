"""No two kustomizations that are applied side by side own the same object.

`local`, `cpu` and `gpu` are three ways to install the same services, of which a namespace holds one; they may own the
same objects. Every other pair may be in a cluster at the same time and must not: an overlay and jobs, two pieces of
work, and either of them beside the files that are applied by themselves. A deletion would take away what the other
needs.
"""

from __future__ import annotations

import subprocess
import sys

import pytest
from tests.k8s.ownership import ANOTHER_JOB, INSTALLATIONS, find_shared, format_owners, render_units
from tests.k8s.rendering import ROOT, Object, kustomize, read_example, render

# Objects of the cluster that two installations in two namespaces share. k8s/README.md says so.
SHARED_BY_NAMESPACES = {("PriorityClass", "", "vfmalign-serving"), ("PriorityClass", "", "vfmalign-training")}


@pytest.fixture(scope="module")
def units() -> dict[str, list[Object]]:
    return render_units()


def test_no_object_is_owned_by_two(units: dict[str, list[Object]]) -> None:
    shared = find_shared(units)
    assert not shared, f"these objects have two owners:\n{format_owners(shared)}"


def test_every_unit_owns_something(units: dict[str, list[Object]]) -> None:
    assert {*INSTALLATIONS, "jobs", ANOTHER_JOB} <= units.keys()
    assert all(units.values())


def test_installations_in_other_namespaces_share_the_priority_classes_alone() -> None:
    renamed = read_example(2) | {"resources": ["overlays/gpu"], "components": []}
    assert find_shared({"a": render("overlays/gpu"), "b": kustomize(renamed)}).keys() == SHARED_BY_NAMESPACES


def test_the_list_is_printed() -> None:
    command = [sys.executable, "-m", "tests.k8s.ownership"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    owners = {tuple(line.split()[:2]): line for line in printed.splitlines()}
    assert owners["Deployment", "vfmalign/vfmalign-mmd"].endswith(
        "overlays/local, overlays/cpu, overlays/gpu, overlays/mmd"
    )
    assert owners["ConfigMap", "vfmalign/vfmalign-jobs-store-example"].endswith("jobs, jobs with jobs/gpu")
