"""An overlay deployed into a cluster by kubectl, and pods of the command line inside it.

Knows kubectl and the names in k8s/. Everything it makes it takes away again; it touches no namespace that was there.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
NAMESPACE = "vfmalign"
STORE, DATABASE = "vfmalign-store", "vfmalign-database"
SERVICES = ("features", "mmd", "finetuning")
GPU = "nvidia.com/gpu"
POOL_LABELS = (GPU, "nvidia.com/gpu.present", "cloud.google.com/gke-accelerator")
ENDED = ("Succeeded", "Failed")


def kubectl(*arguments: str, text: str | None = None, check: bool = True, timeout_s: float = 120.0) -> str:
    """What kubectl says; an error of its as our own."""
    done = subprocess.run(
        ["kubectl", *arguments], input=text, capture_output=True, text=True, check=False, timeout=timeout_s
    )
    if check and done.returncode:
        raise AssertionError(f"kubectl {' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def get(*arguments: str) -> Any:
    """Objects as JSON."""
    return json.loads(kubectl(*arguments, "-o", "json"))


@dataclass
class Deployment:
    """vfmalign in a namespace of its own, which must not be there before.

    Attributes:
        overlay: folder of the kustomization.
        folder: for files of ours.
    """

    overlay: Path
    folder: Path
    manifests: str = ""

    # --- there and away ----------------------------------------------------------------------------------------------

    def up(self) -> None:
        """Deploys everything and waits until it is ready."""
        self.manifests = kubectl("kustomize", str(self._composed()))
        documents = [one for one in yaml.safe_load_all(self.manifests) if one]
        first = [one for one in documents if one["kind"] == "Namespace"]
        self._apply([*first, *self._secrets()])
        self._apply(documents)
        self._available()
        # The bucket is the operator's to make; the credentials of a test may.
        self.run(
            "bucket",
            command=[
                *("python", "-c"),
                "from vfmalign.core.runtime.settings import StoreSettings; "
                "from vfmalign.core.storage.object_store import ObjectStore; "
                "ObjectStore(StoreSettings()).ensure_bucket()",
            ],
        )

    def down(self) -> None:
        """Takes everything away."""
        kubectl(
            "delete", "--ignore-not-found", "--wait=true", "-f", "-", text=self.manifests, check=False, timeout_s=300.0
        )
        kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", check=False, timeout_s=300.0)

    def describe(self) -> str:
        """What the cluster says of our pods and jobs, for whoever looks for a fault."""
        found = [kubectl("-n", NAMESPACE, "get", "pods,jobs", "-o", "wide", check=False)]
        found.append(kubectl("-n", NAMESPACE, "get", "events", "--sort-by=.lastTimestamp", check=False)[-6000:])
        logs = (f"deployment/vfmalign-{name}" for name in SERVICES)
        found += [kubectl("-n", NAMESPACE, "logs", name, "--tail=40", check=False) for name in logs]
        return "\n".join(found)

    def _composed(self) -> Path:
        """The overlay itself, or with the training jobs on the GPU pool where the cluster has one.

        The services move there as well only where there are GPUs for all three: a job needs one.
        """
        gpus = sum(int(node["status"]["allocatable"].get(GPU, 0)) for node in pool())
        if not gpus or "components/gpu" in self.overlay.joinpath("kustomization.yaml").read_text():
            return self.overlay
        folder = self.folder / "composed"
        folder.mkdir()
        relative = os.path.relpath(self.overlay, folder.resolve())
        composed: dict[str, Any] = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": [relative],
        }  # fmt: skip
        component = ROOT / "k8s" / "components" / "gpu"
        if gpus >= len(SERVICES):
            composed["components"] = [os.path.relpath(component, folder.resolve())]
        else:
            shutil.copy(component / "jobs.yaml", folder)
            composed["patches"] = [
                {"path": "jobs.yaml", "target": {"kind": "PodTemplate", "name": "vfmalign-training"}}
            ]
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(composed))
        return folder

    def _secrets(self) -> list[dict[str, Any]]:
        password = secrets.token_hex(16)
        url = f"postgresql://vfmalign:{password}@vfmalign-postgresql:5432/vfmalign"
        return [
            _secret(STORE, AWS_ACCESS_KEY_ID=secrets.token_hex(12), AWS_SECRET_ACCESS_KEY=secrets.token_hex(20)),
            _secret(DATABASE, POSTGRES_PASSWORD=password, VFMALIGN_DATABASE__URL=url),
        ]

    def _apply(self, documents: list[dict[str, Any]]) -> None:
        kubectl("apply", "--server-side", "-f", "-", text=yaml.safe_dump_all(documents))

    # --- commands inside ---------------------------------------------------------------------------------------------

    def start(self, name: str, *arguments: str, command: list[str] | None = None) -> str:
        """A pod that runs `vfmalign ARGUMENTS` beside the services; returns its name."""
        service = get("-n", NAMESPACE, "get", "deployment", "vfmalign-finetuning")["spec"]["template"]["spec"]
        store = next(
            one["configMapRef"]["name"]
            for one in service["containers"][0]["envFrom"]
            if one["configMapRef"]["name"].startswith(STORE)
        )
        pod = f"client-{name}-{secrets.token_hex(3)}"
        self._apply([_client(pod, store, list(arguments), command)])
        return pod

    def result(self, pod: str, timeout_s: float = 1800.0) -> str:
        """What a client pod wrote, once it has succeeded."""
        phase = until(lambda: (found := self.phase(pod)) in ENDED and found, timeout_s)
        written = kubectl("-n", NAMESPACE, "logs", pod, check=False)
        assert phase == "Succeeded", f"{pod} failed: {written[-4000:]}"
        return written

    def run(self, name: str, *arguments: str, command: list[str] | None = None) -> str:
        """Runs a command to its end."""
        return self.result(self.start(name, *arguments, command=command))

    def ask(self, name: str, *arguments: str) -> Any:
        """The JSON that a command answers."""
        return document(self.run(name, *arguments, "--json"))

    # --- training pods -----------------------------------------------------------------------------------------------

    def phase(self, pod: str) -> str:
        """Phase of a pod."""
        return kubectl("-n", NAMESPACE, "get", "pod", pod, "-o", "jsonpath={.status.phase}", check=False).strip()

    def training_pods(self) -> list[dict[str, Any]]:
        """The pods of jobs."""
        found: list[dict[str, Any]] = get("-n", NAMESPACE, "get", "pods", "-l", "vfmalign.io/job")["items"]
        return found

    def training(self, job: str, epochs: int = 2, timeout_s: float = 600.0) -> str:
        """Name of a job's pod, once it is in the middle of its training."""

        def look() -> str | None:
            for pod in self.training_pods():
                name, status = pod["metadata"]["name"], pod["status"]
                mine = pod["metadata"]["annotations"].get("vfmalign.io/job-id") == job
                if mine and status.get("phase") == "Running" and not pod["metadata"].get("deletionTimestamp"):
                    written = kubectl("-n", NAMESPACE, "logs", name, check=False)
                    if written.count('"event": "epoch"') >= epochs:
                        return str(name)
            return None

        return until(look, timeout_s)

    def roll(self, service: str, step: str) -> None:
        """A service's pods end, and others take their place: `restart`, or `undo` for those before the last step."""
        name = f"deployment/vfmalign-{service}"
        kubectl("-n", NAMESPACE, "rollout", step, name)
        kubectl("-n", NAMESPACE, "rollout", "status", name, "--timeout=600s", timeout_s=660.0)

    def drain(self, pod: str) -> None:
        """Drains the pod's node as docs/operations.md says, and gives the node back.

        Where that is no node of the GPU pool, or one that holds this test's own stores, the pod alone is evicted.
        """
        node = get("-n", NAMESPACE, "get", "pod", pod)["spec"]["nodeName"]
        stores = get("-n", NAMESPACE, "get", "pods", "-l", "app.kubernetes.io/component in (s3, postgresql)")["items"]
        spared = {one["spec"].get("nodeName") for one in stores}
        if node in spared or node not in {one["metadata"]["name"] for one in pool()}:
            self._evict(pod)
            return
        try:
            kubectl("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=300s", timeout_s=360.0)
        finally:
            kubectl("uncordon", node)
        self._available()

    def _available(self) -> None:
        """Waits for every service."""
        waited = ("wait", "--for=condition=Available", "deployment", "--all", "--timeout=600s")
        kubectl("-n", NAMESPACE, *waited, timeout_s=660.0)

    def _evict(self, pod: str) -> None:
        """What draining its node does to a pod."""
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": NAMESPACE}}
        path = f"/api/v1/namespaces/{NAMESPACE}/pods/{pod}/eviction"
        kubectl("create", "--raw", path, "-f", "-", text=json.dumps(body))

    def delete(self, pod: str) -> None:
        """What somebody does by hand."""
        kubectl("-n", NAMESPACE, "delete", "pod", pod, "--wait=false")


def pool() -> list[dict[str, Any]]:
    """The nodes of the GPU pool."""
    nodes = get("get", "nodes")["items"]
    return [node for node in nodes if any(label in node["metadata"]["labels"] for label in POOL_LABELS)]


def names(found: dict[str, Any]) -> list[str]:
    """Names of listed objects."""
    return [one["metadata"]["name"] for one in found["items"]]


def document(written: str) -> Any:
    """The JSON document in a log that holds progress as well: it is indented, and log lines are not."""
    start = re.search(r"^\{$", written, re.MULTILINE)
    assert start, f"no JSON in: {written[-2000:]}"
    return json.JSONDecoder().raw_decode(written, start.start())[0]


def until(condition: Callable[[], Any], timeout_s: float) -> Any:
    """What a condition gives once it gives something."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if result := condition():
            return result
        time.sleep(1.0)
    raise AssertionError(f"not within {timeout_s:g} s")


def _secret(name: str, **values: str) -> dict[str, Any]:
    metadata = {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": values}


def _client(name: str, store: str, arguments: list[str], command: list[str] | None) -> dict[str, Any]:
    keys = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    environment: list[dict[str, Any]] = [
        {"name": key, "valueFrom": {"secretKeyRef": {"name": STORE, "key": key}}} for key in keys
    ]
    addresses = {f"VFMALIGN_{one.upper()}_ADDRESS": f"dns:///vfmalign-{one}:8001" for one in SERVICES}
    plain = addresses | {"HOME": "/tmp", "VFMALIGN_HOME": "/tmp/home", "TERM": "dumb"}
    environment += [{"name": key, "value": value} for key, value in plain.items()]
    container: dict[str, Any] = {
        "name": "client",
        "image": os.environ.get("CLI_IMAGE", "vfmalign/cli:0.1.0"),
        "imagePullPolicy": "IfNotPresent",
        "args": arguments,
        "workingDir": "/tmp",
        "envFrom": [{"configMapRef": {"name": store}}],
        "env": environment,
        "resources": {"requests": {"cpu": "50m", "memory": "256Mi"}, "limits": {"memory": "2Gi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
    }  # fmt: skip
    if command is not None:
        container |= {"command": command}
    labels = {"app.kubernetes.io/name": "vfmalign", "app.kubernetes.io/component": "client"}
    user = {"runAsNonRoot": True, "runAsUser": 10001, "runAsGroup": 10001, "fsGroup": 10001}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": user | {"seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [container],
            "volumes": [{"name": "tmp", "emptyDir": {}}],
        },
    }
