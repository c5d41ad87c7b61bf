"""Deploy an overlay into a cluster with kubectl and run the command line in pods there.

Everything that it creates is deleted afterwards. Existing namespaces are not changed.
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
NAMESPACE, JOBS_NAMESPACE = "vfmalign", "vfmalign-jobs"
CREDENTIALS = ROOT / "k8s" / "overlays" / "local" / "credentials.sh"
STORE = "vfmalign-store"
CLUSTER_KEYS, CLIENT = "vfmalign-cluster-keys", "vfmalign-client"
SERVICES = ("features", "mmd", "finetuning", "monitoring")
GPU = "nvidia.com/gpu"
_LIMITS = "/template/spec/containers/0/resources/limits"
POOL_LABELS = (GPU, "nvidia.com/gpu.present", "cloud.google.com/gke-accelerator")
ENDED = ("Succeeded", "Failed")


def kubectl(*arguments: str, text: str | None = None, check: bool = True, timeout_s: float = 120.0) -> str:
    """Runs kubectl and returns its output; a failure becomes an AssertionError with its message."""
    result = subprocess.run(
        ["kubectl", *arguments], input=text, capture_output=True, text=True, check=False, timeout=timeout_s
    )
    if check and result.returncode:
        raise AssertionError(f"kubectl {' '.join(arguments)}: {result.stderr.strip() or result.stdout.strip()}")
    return result.stdout


def get(*arguments: str) -> Any:
    """Returns objects as JSON."""
    return json.loads(kubectl(*arguments, "-o", "json"))


@dataclass
class Deployment:
    """vfmalign in two namespaces that must not exist yet.

    Attributes:
        overlay: folder of the kustomization.
        folder: for temporary files.
        gpus: processes of every training job, each with a GPU of its own where the cluster has a pool.
        rollout_timeout_s: time that each Deployment has to roll out.
    """

    overlay: Path
    folder: Path
    gpus: int = 1
    rollout_timeout_s: int = 600
    manifests: str = ""

    # --- deploy and delete -------------------------------------------------------------------------------------------

    def up(self) -> None:
        """Deploys everything and waits until it is rolled out, the bucket included."""
        self.manifests = kubectl("kustomize", str(self._composed()))
        documents = [one for one in yaml.safe_load_all(self.manifests) if one]
        first = [one for one in documents if one["kind"] == "Namespace"]
        self._apply([*first, *_draw_credentials(), _cluster_keys()])
        self._apply(documents)
        self.wait_for_rollout()
        self.run("doctor", "doctor")

    def down(self) -> None:
        """Deletes everything."""
        kubectl(
            "delete", "--ignore-not-found", "--wait=true", "-f", "-", text=self.manifests, check=False, timeout_s=300.0
        )
        for name in (NAMESPACE, JOBS_NAMESPACE):
            kubectl("delete", "namespace", name, "--ignore-not-found", check=False, timeout_s=300.0)

    def describe(self) -> str:
        """Returns the state, events and logs of pods and jobs, for troubleshooting."""
        sections = []
        for name in (NAMESPACE, JOBS_NAMESPACE):
            sections.append(kubectl("-n", name, "get", "pods,jobs", "-o", "wide", check=False))
            sections.append(kubectl("-n", name, "get", "events", "--sort-by=.lastTimestamp", check=False)[-6000:])
        logs = (f"deployment/vfmalign-{name}" for name in SERVICES)
        sections += [kubectl("-n", NAMESPACE, "logs", name, "--tail=40", check=False) for name in logs]
        return "\n".join(sections)

    def _composed(self) -> Path:
        """Returns the overlay, with `gpus` processes for each training job, on the GPU pool if the cluster has one.

        Features and mmd use the pool only if GPUs for one job are left.
        """
        available = [count for node in pool() if (count := int(node["status"]["allocatable"].get(GPU, 0)))]
        if available:
            assert max(available) >= self.gpus, f"no node has {self.gpus} GPUs. Run with GPUS={max(available)} or less"
        folder = self.folder / "composed"
        folder.mkdir()
        composed: dict[str, Any] = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [os.path.relpath(self.overlay, folder.resolve())],
            "patches": [],
        }
        template = {"kind": "PodTemplate", "name": "vfmalign-training"}
        component = ROOT / "k8s" / "components" / "gpu"
        if "components/gpu" not in self.overlay.joinpath("kustomization.yaml").read_text() and available:
            if sum(available) >= 2 + self.gpus:
                composed["components"] = [os.path.relpath(component, folder.resolve())]
            else:
                shutil.copy(component / "jobs.yaml", folder)
                composed["patches"].append({"path": "jobs.yaml", "target": template})
        if available:
            limit = {"op": "replace", "path": f"{_LIMITS}/{GPU.replace('/', '~1')}", "value": self.gpus}
            (folder / "gpus.yaml").write_text(yaml.safe_dump([limit]))
            composed["patches"].append({"path": "gpus.yaml", "target": template})
        processes = f"VFMALIGN_LAUNCHER__PROCESSES_PER_NODE={self.gpus}"
        composed["configMapGenerator"] = [{"name": "vfmalign-finetuning", "behavior": "merge", "literals": [processes]}]
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(composed))
        return folder

    def _apply(self, documents: list[dict[str, Any]]) -> None:
        kubectl("apply", "--server-side", "-f", "-", text=yaml.safe_dump_all(documents))

    # --- commands inside ---------------------------------------------------------------------------------------------

    def start(self, name: str, *arguments: str, command: list[str] | None = None) -> str:
        """Starts a pod that runs `vfmalign ARGUMENTS` in the namespace; returns its name."""
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
        """Waits until a client pod succeeds, and returns its output."""
        phase = until(lambda: (phase := self.phase(pod)) in ENDED and phase, timeout_s)
        output = kubectl("-n", NAMESPACE, "logs", pod, check=False)
        assert phase == "Succeeded", f"{pod} failed: {output[-4000:]}"
        return output

    def run(self, name: str, *arguments: str, command: list[str] | None = None) -> str:
        """Runs a command in a pod and returns its output."""
        return self.result(self.start(name, *arguments, command=command))

    def ask(self, name: str, *arguments: str) -> Any:
        """Runs a command and returns its JSON output."""
        return parse_document(self.run(name, *arguments, "--json"))

    def get_job(self, job: str) -> Any:
        """Returns a training job."""
        return self.ask("job", "jobs", "show", job)["job"]

    def get_check(self, check: str) -> Any:
        """Returns an alignment check."""
        return self.ask("check", "checks", "show", check)["check"]

    # --- training pods -----------------------------------------------------------------------------------------------

    def phase(self, pod: str) -> str:
        """Returns the phase of a pod beside the services."""
        return kubectl("-n", NAMESPACE, "get", "pod", pod, "-o", "jsonpath={.status.phase}", check=False).strip()

    def training_pods(self) -> list[dict[str, Any]]:
        """Returns the pods of training jobs."""
        items: list[dict[str, Any]] = get("-n", JOBS_NAMESPACE, "get", "pods", "-l", "vfmalign.io/job")["items"]
        return items

    def training(self, job: str, epochs: int = 2, timeout_s: float = 600.0) -> str:
        """Waits until a job has trained `epochs` epochs, and returns the name of its pod."""

        def look() -> str | None:
            for pod in self.training_pods():
                name, status = pod["metadata"]["name"], pod["status"]
                is_of_job = pod["metadata"]["annotations"].get("vfmalign.io/job-id") == job
                if is_of_job and status.get("phase") == "Running" and not pod["metadata"].get("deletionTimestamp"):
                    log = kubectl("-n", JOBS_NAMESPACE, "logs", name, check=False)
                    if log.count('"event": "epoch"') >= epochs:
                        return str(name)
            return None

        return until(look, timeout_s)

    def roll(self, service: str, step: str) -> None:
        """Replaces the pods of a service: `restart`, or `undo` to return to the previous revision."""
        name = f"deployment/vfmalign-{service}"
        kubectl("-n", NAMESPACE, "rollout", step, name)
        kubectl("-n", NAMESPACE, "rollout", "status", name, "--timeout=600s", timeout_s=660.0)

    def kill(self, service: str) -> None:
        """Deletes the pods of a service without time to end, and waits for their successors."""
        selector = f"app.kubernetes.io/name=vfmalign,app.kubernetes.io/component={service}"
        kubectl("-n", NAMESPACE, "delete", "pod", "-l", selector, "--grace-period=0", "--force")
        kubectl(
            "-n", NAMESPACE, "rollout", "status", f"deployment/vfmalign-{service}", "--timeout=600s", timeout_s=660.0
        )

    def drain(self, pod: str) -> None:
        """Drains the node of a training pod as docs/operations.md describes, and uncordon it.

        Evict only the pod if its node is outside the GPU pool or holds the stores of this test.
        """
        node = get("-n", JOBS_NAMESPACE, "get", "pod", pod)["spec"]["nodeName"]
        stores = get("-n", NAMESPACE, "get", "pods", "-l", "app.kubernetes.io/component in (s3, postgresql)")["items"]
        spared = {one["spec"].get("nodeName") for one in stores}
        if node in spared or node not in {one["metadata"]["name"] for one in pool()}:
            self._evict(pod)
            return
        try:
            kubectl("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=300s", timeout_s=360.0)
        finally:
            kubectl("uncordon", node)
        self.wait_for_rollout()

    def wait_for_rollout(self) -> None:
        """Waits until every replica of every Deployment is ready.

        The condition `Available` would not do: with `maxUnavailable: 1` it is true without a single ready pod.
        """
        kubectl(
            *("-n", NAMESPACE, "rollout", "status", "deployment", f"--timeout={self.rollout_timeout_s}s"),
            timeout_s=self.rollout_timeout_s * 6.0,
        )

    def _evict(self, pod: str) -> None:
        """Evicts a pod, as draining its node would."""
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": JOBS_NAMESPACE}}
        path = f"/api/v1/namespaces/{JOBS_NAMESPACE}/pods/{pod}/eviction"
        kubectl("create", "--raw", path, "-f", "-", text=json.dumps(body))

    def delete(self, pod: str) -> None:
        """Deletes a training pod, as a user would."""
        kubectl("-n", JOBS_NAMESPACE, "delete", "pod", pod, "--wait=false")


def pool() -> list[dict[str, Any]]:
    """Returns the nodes of the GPU pool."""
    nodes = get("get", "nodes")["items"]
    return [node for node in nodes if any(label in node["metadata"]["labels"] for label in POOL_LABELS)]


def names(listing: dict[str, Any]) -> list[str]:
    """Returns the names of the objects in a listing."""
    return [item["metadata"]["name"] for item in listing["items"]]


def parse_document(log: str) -> Any:
    """Parses the JSON document in a log with progress lines. The document is indented, log lines are not."""
    start = re.search(r"^\{$", log, re.MULTILINE)
    assert start, f"no JSON in: {log[-2000:]}"
    return json.JSONDecoder().raw_decode(log, start.start())[0]


def until(condition: Callable[[], Any], timeout_s: float) -> Any:
    """Polls a condition until its value is true, and returns the value."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if result := condition():
            return result
        time.sleep(1.0)
    raise AssertionError(f"the condition did not hold within {timeout_s:g} s")


def _draw_credentials() -> list[dict[str, Any]]:
    """Returns the Secrets of the overlay `local`, with new random credentials."""
    script = subprocess.run([CREDENTIALS], capture_output=True, text=True, check=True)
    return list(yaml.safe_load_all(script.stdout))


def _cluster_keys() -> dict[str, Any]:
    """Returns the public keys of the cluster's tokens, as a ConfigMap that the services mount."""
    metadata = {"name": CLUSTER_KEYS, "namespace": NAMESPACE}
    keys = kubectl("get", "--raw", "/openid/v1/jwks")
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"jwks.json": keys}}


def _client(name: str, store: str, arguments: list[str], command: list[str] | None) -> dict[str, Any]:
    keys = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    environment: list[dict[str, Any]] = [
        {"name": key, "valueFrom": {"secretKeyRef": {"name": STORE, "key": key}}} for key in keys
    ]
    addresses = {f"VFMALIGN_{one.upper()}_ADDRESS": f"dns:///vfmalign-{one}:8001" for one in SERVICES}
    plain = addresses | {"HOME": "/tmp", "VFMALIGN_HOME": "/tmp/home", "TERM": "dumb"}
    plain |= {"VFMALIGN_TOKEN_FILE": "/var/run/vfmalign/token", "VFMALIGN_AUTH__ALLOW_PLAINTEXT": "true"}
    environment += [{"name": key, "value": value} for key, value in plain.items()]
    container: dict[str, Any] = {
        "name": "client",
        "image": os.environ.get("CLI_IMAGE", "vfmalign/cli-imaging:0.1.0"),
        "imagePullPolicy": "IfNotPresent",
        "args": arguments,
        "workingDir": "/tmp",
        "envFrom": [{"configMapRef": {"name": store}}],
        "env": environment,
        "resources": {"requests": {"cpu": "50m", "memory": "256Mi"}, "limits": {"memory": "2Gi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "tmp", "mountPath": "/tmp"}, {"name": "token", "mountPath": "/var/run/vfmalign", "readOnly": True},
        ],
    }  # fmt: skip
    token = {"serviceAccountToken": {"path": "token", "audience": "vfmalign", "expirationSeconds": 3600}}
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
            "serviceAccountName": CLIENT,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": user | {"seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [container],
            "volumes": [{"name": "tmp", "emptyDir": {}}, {"name": "token", "projected": {"sources": [token]}}],
        },
    }
