"""Render the overlays and compositions of k8s/ as `kubectl apply -k` would, and find their pods."""

from __future__ import annotations

import copy
import functools
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]

ROOT = Path(__file__).resolve().parents[2]
K8S = ROOT / "k8s"

NAMESPACE, JOBS_NAMESPACE = "vfmalign", "vfmalign-jobs"

# The MMD service alone.
MMD_ALONE: dict[str, tuple[str, ...]] = {
    "overlays/mmd": ("overlays/mmd",),
    "mmd-with-gpu": ("overlays/mmd", "components/gpu"),
    "mmd-with-tls": ("overlays/mmd", "components/tls"),
    "mmd-with-monitoring": ("overlays/mmd", "components/monitoring"),
}

# All services: every overlay by itself, and every component on an overlay that it is meant for.
WHOLE: dict[str, tuple[str, ...]] = {
    "overlays/cpu": ("overlays/cpu",),
    "overlays/gpu": ("overlays/gpu",),
    "overlays/local": ("overlays/local",),
    "local-with-gpu": ("overlays/local", "components/gpu"),
    "local-ephemeral": ("overlays/local", "components/ephemeral"),
    "cpu-with-hpa": ("overlays/cpu", "components/hpa"),
    "cpu-with-kueue": ("overlays/cpu", "components/kueue"),
    "cpu-with-monitoring": ("overlays/cpu", "components/monitoring"),
    "cpu-with-grafana": ("overlays/cpu", "components/grafana"),
    "cpu-with-tls": ("overlays/cpu", "components/tls"),
    "cpu-with-mutual-tls": ("overlays/cpu", "components/tls", "components/mutual-tls"),
    "cpu-with-dicom-gateway": ("overlays/cpu", "components/dicom-gateway"),
    "cpu-with-quota": ("overlays/cpu", "components/quota"),
    "cpu-with-signing": ("overlays/cpu", "components/signing"),
    "cpu-with-service-credentials": ("overlays/cpu", "components/service-credentials"),
    "cpu-with-web-identity": ("overlays/cpu", "components/web-identity"),
    "gpu-with-mig": ("overlays/gpu", "components/mig"),
    "base-with-network-policy-and-gpu": ("base", "components/network-policy", "components/gpu"),
    "everything": (
        "overlays/gpu",
        *(
            f"components/{name}"
            for name in (
                "mig",
                "hpa",
                "kueue",
                "monitoring",
                "grafana",
                "quota",
                "signing",
                "service-credentials",
                "tls",
                "mutual-tls",
                "dicom-gateway",
            )
        ),
    ),
}

COMPOSITIONS = WHOLE | MMD_ALONE


def kustomize(site: dict[str, Any]) -> list[Object]:
    """Renders a kustomization whose resources and components are folders of k8s/."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()  # kustomize requires relative paths, and resolves symbolic links first
        paths = {
            key: [os.path.relpath(K8S / part, folder) for part in site[key]] for key in ("resources", "components")
        }
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(site | paths))
        return render_folder(folder)


def render_folder(folder: Path) -> list[Object]:
    """Renders the kustomization in a folder."""
    result = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=False)
    kustomization = (folder / "kustomization.yaml").read_text()
    assert result.returncode == 0, f"kubectl kustomize: {result.stderr}\n{kustomization}"
    assert not result.stderr, result.stderr  # deprecated fields
    return [item for item in yaml.load_all(result.stdout, Loader=yaml.CSafeLoader) if item]


@functools.cache
def _composed(name: str) -> list[Object]:
    resource, *components = COMPOSITIONS[name]
    return kustomize({"resources": [resource], "components": components})


def render(name: str) -> list[Object]:
    """Returns a new copy of the objects of a composition."""
    return copy.deepcopy(_composed(name))


def read_example(number: int) -> dict[str, Any]:
    """Returns a kustomization that k8s/README.md shows, with resources and components as folders of k8s/."""
    example = (K8S / "README.md").read_text().split("```yaml")[number].split("```")[0]
    site: dict[str, Any] = {"components": []} | yaml.safe_load(re.sub(r"\.\./vfmalign/k8s/", "", example))
    return site


@dataclass(frozen=True)
class Pod:
    """A pod template.

    Attributes:
        owner: the object that contains the template.
        labels: labels of its pods.
        spec: spec of its pods.
    """

    owner: Object
    labels: dict[str, str]
    spec: dict[str, Any]

    @property
    def name(self) -> str:
        """Returns kind and name of the owner."""
        return describe(self.owner)

    @property
    def namespace(self) -> str:
        """Returns the namespace that its pods run in."""
        return str(self.owner["metadata"].get("namespace", ""))

    @property
    def component(self) -> str:
        """Returns the component that the label names."""
        return self.labels.get("app.kubernetes.io/component", "")

    @property
    def containers(self) -> list[dict[str, Any]]:
        """Returns all containers, including init containers."""
        return [*self.spec.get("initContainers", ()), *self.spec["containers"]]


# What kustomize appends to the names of generated objects: ten characters of its own alphabet.
_DIGEST = re.compile(r"-[2456789bcdfghkmt]{10}$")


def get_name(item: Object) -> str:
    """Returns the name of an object without the digest of a generated one."""
    name: str = item["metadata"]["name"]
    return _DIGEST.sub("", name) if item["kind"] in {"ConfigMap", "Secret"} else name


def describe(item: Object) -> str:
    """Returns kind and name of an object."""
    return f"{item['kind']} {item['metadata']['name']}"


def pods(objects: Sequence[Object]) -> list[Pod]:
    """Returns the pod templates in objects of any kind."""
    return [pod for item in objects for pod in _pods_in(item, item)]


def _pods_in(owner: Object, node: Any) -> Iterator[Pod]:
    if isinstance(node, list):
        for child in node:
            yield from _pods_in(owner, child)
    if not isinstance(node, dict):
        return
    spec = node.get("spec")
    if isinstance(spec, dict) and "containers" in spec:
        yield Pod(owner, (node.get("metadata") or {}).get("labels") or {}, spec)
        return
    for child in node.values():
        yield from _pods_in(owner, child)


def settings_maps(objects: Sequence[Object]) -> dict[str, dict[str, str]]:
    """Returns the data of the ConfigMaps by name."""
    return {item["metadata"]["name"]: item.get("data") or {} for item in objects if item["kind"] == "ConfigMap"}


def environment(container: dict[str, Any], objects: Sequence[Object]) -> dict[str, str]:
    """Returns the environment variables of a container whose values are in the manifests."""
    maps = settings_maps(objects)
    variables: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        variables |= maps.get(source.get("configMapRef", {}).get("name"), {})
    return variables | {one["name"]: one["value"] for one in container.get("env", ()) if "value" in one}


def expand(variables: dict[str, str]) -> dict[str, str]:
    """Returns variables with the references that Kubernetes expands, in the namespace of the manifests."""
    values = variables | {"NAMESPACE": NAMESPACE}
    return {
        name: re.sub(r"\$\((\w+)\)", lambda found: values.get(found[1], found[0]), value)
        for name, value in variables.items()
    }
