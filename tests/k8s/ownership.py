"""Which kustomization owns which object. `python -m tests.k8s.ownership` prints the list.

`kubectl delete -k` deletes every object that a kustomization renders, whoever else needs it. So two kustomizations that
are applied side by side must not render the same object.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import yaml
from tests.k8s.rendering import K8S, Object, get_name, kustomize, render_folder

Identity = tuple[str, str, str]
"""Kind, namespace and name. No two API groups in use here share a kind."""

INSTALLATIONS = ("overlays/local", "overlays/cpu", "overlays/gpu", "overlays/mmd")
ANOTHER_JOB = "a copy of jobs"
ALTERNATIVES: tuple[frozenset[str], ...] = (frozenset(INSTALLATIONS), frozenset({"jobs", "jobs with jobs/gpu"}))
"""Sets of which a cluster holds one at a time: ways to install the same services, or to run the same piece of work."""

FILES = (
    "admission/training-jobs.yaml",
    "components/kueue/cluster-queue.yaml",
    "examples/connection-limit.yaml",
    "examples/dimse-service.yaml",
    "examples/grpc-route.yaml",
    "examples/prometheus.yaml",
)
"""Files that are applied by themselves."""


def identify(item: Object) -> Identity:
    """Returns the identity of an object, without the digest of a generated name: other values must not hide a clash."""
    return item["kind"], item["metadata"].get("namespace", ""), get_name(item)


def render_units() -> dict[str, list[Object]]:
    """Returns the objects of everything under k8s/ that is applied by itself."""
    units = {folder: kustomize({"resources": [folder], "components": []}) for folder in (*INSTALLATIONS, "jobs")}
    units["jobs with jobs/gpu"] = kustomize({"resources": ["jobs"], "components": ["jobs/gpu"]})
    units[ANOTHER_JOB] = _render_another_job()
    return units | {name: [item for item in yaml.safe_load_all((K8S / name).read_text()) if item] for name in FILES}


def _render_another_job() -> list[Object]:
    """Renders a copy of k8s/jobs with another suffix, as k8s/README.md says to make one."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "jobs"
        shutil.copytree(K8S / "jobs", folder)
        path = folder / "kustomization.yaml"
        text = path.read_text()
        assert "nameSuffix: -example" in text
        path.write_text(text.replace("nameSuffix: -example", "nameSuffix: -another"))
        return render_folder(folder)


def list_owners(units: Mapping[str, Sequence[Object]]) -> dict[Identity, list[str]]:
    """Returns the units that own each object."""
    owners: dict[Identity, list[str]] = defaultdict(list)
    for name, objects in units.items():
        for item in objects:
            owners[identify(item)].append(name)
    return dict(owners)


def find_shared(units: Mapping[str, Sequence[Object]]) -> dict[Identity, list[str]]:
    """Returns the objects that two units own which a cluster may hold at the same time."""

    def coexist(first: str, second: str) -> bool:
        return not any({first, second} <= group for group in ALTERNATIVES)

    return {
        identity: names
        for identity, names in list_owners(units).items()
        if any(coexist(*pair) for pair in combinations(names, 2))
    }


def format_owners(owners: Mapping[Identity, Sequence[str]]) -> str:
    """Returns one line for each object: kind, namespace/name and owners."""
    lines = [(kind, f"{namespace or '(cluster)'}/{name}", ", ".join(owners[kind, namespace, name]))
             for kind, namespace, name in sorted(owners)]  # fmt: skip
    widths = [max((len(line[column]) for line in lines), default=0) for column in (0, 1)]
    return "\n".join(f"{kind:<{widths[0]}}  {name:<{widths[1]}}  {names}" for kind, name, names in lines)


if __name__ == "__main__":
    print(format_owners(list_owners(render_units())))
