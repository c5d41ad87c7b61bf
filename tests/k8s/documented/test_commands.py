"""Every command of docs/operations.md, docs/runbooks.md and k8s/README.md, and of comments in the manifests, runs.

Each block runs in a shell of its own, in a copy of the repository, on an emulated cluster where `local` is installed.
`commands` says which programs are replaced. No command is left out.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from tests.k8s.documented import programs
from tests.k8s.documented.commands import PAGES, Block, list_blocks, list_comments
from tests.k8s.emulated.cluster import Cluster
from tests.k8s.emulated.server import SIGNING_KEYS, serve
from tests.k8s.pod_policy import SERVERS
from tests.k8s.rendering import JOBS_NAMESPACE, ROOT, Object, kustomize, pods, render

from vfmalign.finetuning.launchers.base import Origin
from vfmalign.finetuning.launchers.kubernetes.manifest import Options, manifest

BLOCKS = [block for page in PAGES for block in list_blocks(page)]
DISTINCT = {block.script: block for block in reversed(BLOCKS)}.values()
COMMENTS = list_comments()
FILES = {
    "store.env": "AWS_ACCESS_KEY_ID=id\nAWS_SECRET_ACCESS_KEY=key\n",
    "training.env": "AWS_ACCESS_KEY_ID=other\nAWS_SECRET_ACCESS_KEY=key\n",
    "database.env": "VFMALIGN_DATABASE__URL=postgresql://host/vfmalign\n",
    "monitoring.env": "VFMALIGN_DATABASE__URL=postgresql://host/vfmalign_monitoring\n",
    **dict.fromkeys(("password", "tls.crt", "tls.key", "ca.crt"), "x\n"),
    "vfmalign.sql": "",
    "vfmalign_monitoring.sql": "",
    "s3.tar": "",
}
"""Files that the commands read and that the reader has from elsewhere."""

_COMPOSE_VARIABLES = {"POSTGRES_PASSWORD": "x"}

Run = Callable[[str], subprocess.CompletedProcess[str]]


@pytest.fixture
def cluster() -> Cluster:
    """A cluster of one node on which the overlay `local` runs in its second revision."""
    cluster = Cluster()
    cluster.put({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "NODE"}, "spec": {}})
    before = render("overlays/local")
    for pod in pods(before):
        for container in pod.containers:
            container["image"] = f"{container['image'].partition(':')[0]}:0.0.9"
    cluster.add(before)
    cluster.add(render("overlays/local"))
    cluster.changes.clear()
    return cluster


@pytest.fixture
def run(cluster: Cluster, tmp_path: Path) -> Iterator[Run]:
    """Runs a script in a copy of the repository; fails if a command of it does."""
    folder, path = tmp_path / "repository", tmp_path / "bin"
    for one in (folder, path):
        one.mkdir()
    for item in ROOT.iterdir():
        if not item.name.startswith("."):
            (folder / item.name).symlink_to(item)
    for name, content in FILES.items():
        (folder / name).write_text(content)
    programs.install(path)
    python_path = os.pathsep.join(str(ROOT / name) for name in (".", "services"))
    with serve(cluster, tmp_path) as kubeconfig:
        environment = os.environ | _COMPOSE_VARIABLES | {
            "KUBECONFIG": str(kubeconfig), "HOME": str(tmp_path), "PYTHONPATH": python_path,
            "PATH": f"{path}{os.pathsep}{os.environ['PATH']}",
        }  # fmt: skip

        def run(script: str) -> subprocess.CompletedProcess[str]:
            command = ["bash", "-euo", "pipefail", "-c", script]
            result = subprocess.run(
                command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=120
            )
            assert result.returncode == 0, f"{script}\n{result.stdout}{result.stderr}"
            # kubectl succeeds where a selector selects nothing.
            assert "No resources found" not in result.stderr, script
            return result

        yield run


def make_training_job(cluster: Cluster) -> Object:
    """Returns the Job of a check's job, as the launcher would create it."""
    template = cluster.objects["PodTemplate", JOBS_NAMESPACE, "vfmalign-training"]
    origin = Origin(check="CHECK", network="pretrained", request_id="check-CHECK")
    job = manifest(template, "CHECK-pretrained", 1, "s3://vfmalign/default/jobs/a/spec.json", Options(), origin=origin)
    job["metadata"]["namespace"] = JOBS_NAMESPACE
    return job


@cache
def _has_compose() -> bool:
    docker = shutil.which("docker")
    return docker is not None and subprocess.run([docker, "compose", "version"], capture_output=True).returncode == 0


def _needs_docker(block: Block) -> bool:
    return "docker " in block.script


@pytest.mark.parametrize("block", DISTINCT, ids=str)
def test_a_documented_command_runs(block: Block, run: Run, cluster: Cluster) -> None:
    if _needs_docker(block) and not _has_compose():
        pytest.skip("docker with its Compose plugin is not installed")
    cluster.add([make_training_job(cluster)])
    run(block.script)


@pytest.mark.parametrize("block", COMMENTS, ids=str)
def test_a_command_in_a_manifest_runs(block: Block, run: Run, cluster: Cluster) -> None:
    cluster.add(kustomize({"resources": ["jobs"], "components": []}))
    run(block.script)


KEYS = "vfmalign-cluster-keys"
SERVICES = {f"vfmalign-{name}" for name in SERVERS}
COMPOSE = "docker compose -f deploy/compose.yaml"
RESTART = "kubectl -n vfmalign rollout restart deployment"


def list_lines(start: str) -> list[str]:
    """Returns the lines of all blocks that begin with a text."""
    lines = [line.partition("  #")[0].strip() for block in BLOCKS for line in block.script.splitlines()]
    return [line for line in lines if line.startswith(start)]


@pytest.mark.parametrize("command", sorted(set(list_lines(f"{RESTART} "))))
def test_restarting_after_a_rotation_spares_store_and_database(command: str, run: Run, cluster: Cluster) -> None:
    run(command)
    assert {name for _, kind, name in cluster.changes if kind == "Deployment"} == SERVICES
    assert all(key in cluster.objects for key in _list_keys(render("overlays/local")))


def test_no_documented_command_restarts_everything() -> None:
    assert len(list_lines(f"{RESTART} ")) == 3
    assert RESTART not in list_lines(RESTART)


def test_the_documented_secrets_are_those_that_the_pods_read(run: Run, cluster: Cluster) -> None:
    (block,) = (block for block in BLOCKS if "--from-env-file=database.env" in block.script)
    run(block.script)
    assert _list_secret_keys(cluster) >= _list_references(render("overlays/gpu"))
    run(block.script)  # a Secret that exists is changed


def test_the_documented_keys_of_the_cluster_are_those_that_the_services_mount(run: Run, cluster: Cluster) -> None:
    for command in sorted(set(list_lines("kubectl get --raw /openid/v1/jwks"))):
        run(command)
        (keys,) = (item["data"] for item in cluster.list("ConfigMap", "vfmalign") if _name(item) == KEYS)
        assert json.loads(keys["jwks.json"]) == SIGNING_KEYS
        run(command)  # keys that exist are changed
    mounted = {
        (source["configMap"]["name"], item["key"])
        for pod in pods(render("overlays/gpu"))
        for volume in pod.spec["volumes"]
        for source in volume.get("projected", {}).get("sources", ())
        for item in source.get("configMap", {}).get("items", ())
    }
    assert mounted == {(KEYS, "jwks.json")}


def test_the_local_credentials_are_those_that_the_pods_read(run: Run, cluster: Cluster) -> None:
    (block,) = (block for block in BLOCKS if "credentials.sh | kubectl create" in block.script)
    run(block.script)
    assert _list_secret_keys(cluster) >= _list_references(render("overlays/local"))


def test_rotating_the_local_keys_spares_the_database(run: Run, cluster: Cluster) -> None:
    (block,) = (block for block in BLOCKS if "credentials.sh | kubectl create" in block.script)
    run(block.script)
    before = {_name(item): item["stringData"] for item in cluster.list("Secret")}
    (block,) = (block for block in BLOCKS if "credentials.sh store" in block.script)
    assert "Warning" not in run(block.script).stderr
    after = {_name(item): item["stringData"] for item in cluster.list("Secret")}
    assert {name for name in before if before[name] == after[name]} == {
        "vfmalign-database",
        "vfmalign-database-monitoring",
    }


def test_a_rollout_is_undone(run: Run, cluster: Cluster) -> None:
    (block,) = (block for block in BLOCKS if "rollout undo" in block.script)
    run(block.script)
    has_gpu = {
        name: "nvidia.com/gpu" in str(cluster.objects["Deployment", "vfmalign", f"vfmalign-{name}"]["spec"]["template"])
        for name in ("features", "mmd")
    }
    assert has_gpu == {"features": True, "mmd": False}


def test_finished_work_is_read_and_deleted_without_the_services(run: Run, cluster: Cluster) -> None:
    installed = set(_list_keys(render("overlays/gpu")))
    (block,) = (block for block in BLOCKS if "kubectl delete -k" in block.script)
    result = run(f"kubectl apply -k k8s/overlays/gpu\n{block.script}")
    assert "log of vfmalign-extract-reduce-example-0, features" in result.stdout
    assert installed <= cluster.objects.keys()
    assert cluster.list("Job") == []


def _name(item: Object) -> str:
    return str(item["metadata"]["name"])


def _list_keys(objects: list[Object]) -> list[tuple[str, str, str]]:
    return [(item["kind"], item["metadata"].get("namespace", ""), item["metadata"]["name"]) for item in objects]


def _list_references(objects: list[Object]) -> set[tuple[str, str, str]]:
    """Returns namespace, name and key of every Secret that a pod's variables refer to."""
    return {
        (pod.namespace, reference["name"], reference["key"])
        for pod in pods(objects)
        for container in pod.containers
        for variable in container.get("env", ())
        if (reference := variable.get("valueFrom", {}).get("secretKeyRef"))
    }


def _list_secret_keys(cluster: Cluster) -> set[tuple[str, str, str]]:
    return {
        (secret["metadata"]["namespace"], secret["metadata"]["name"], key)
        for secret in cluster.list("Secret")
        for key in {**secret.get("data", {}), **secret.get("stringData", {})}
    }


# A documented command, what is changed, and the words of the failure.
WRONG = {
    "a misspelt flag": (f"{RESTART} -l app", " -l ", " --selctor ", "unknown flag: --selctor"),
    "a selector that selects nothing": (f"{RESTART} -l app", "=vfmalign", "=vfmalin", "rollout restart"),
    "a resource that does not exist": ("kubectl -n vfmalign rollout undo", "-mmd", "-mdm", '"vfmalign-mdm" not found'),
    "a kind that does not exist": ("kubectl -n vfmalign rollout undo", "deployment/", "deploymen/", "resource type"),
    "a subcommand that does not exist": ("kubectl -n vfmalign rollout undo", "undo", "redo", "kubectl rollout"),
    "another namespace": ("kubectl -n vfmalign rollout undo", "-n vfmalign", "-n default", "not found"),
    "a missing folder": ("kubectl apply -k k8s/overlays/gpu", "gpu", "gpus", "k8s/overlays/gpus"),
    "a missing file": ("kubectl apply -f k8s/base", "services/namespace.yaml", "services/names.yaml", "does not exist"),
    "a missing script": ("k8s/overlays/local/credentials.sh", "credentials", "secrets", "No such file"),
    "a missing input": (f"{COMPOSE} exec -T postgres psql -q", ".sql", ".sq", "No such file"),
    "a node that does not exist": ("kubectl drain", "NODE", "NODES", '"NODES" not found'),
    "a command of vfmalign": ("vfmalign store init", "init", "create", "No such command"),
    "an option of vfmalign": ("vfmalign up --detach", "--detach", "--detatch", "No such option"),
    "an argument of vfmalign": ("vfmalign checks show ID", " ID", "", "Missing argument"),
    "a make target": ("make k8s-check", "k8s-check", "k8s-checks", "No rule to make target"),
    "a service of Compose": (f"{COMPOSE} stop s3", "s3", "s4", "no such service: s4"),
    "an option of Compose": (f"{COMPOSE} up --detach --wait", "--wait", "--wiat", "--wiat"),
    "an option of docker": ("docker run --rm -v", "--entrypoint", "--entrypont", "unknown flag: --entrypont"),
    "a module": ("python -m tests.k8s.ownership", "ownership", "owner", "No module named"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_command_fails(name: str, run: Run) -> None:
    start, old, new, words = WRONG[name]
    if start.startswith("docker") and not _has_compose():
        pytest.skip("docker with its Compose plugin is not installed")
    command = list_lines(start)[0]
    assert old in command
    with pytest.raises(AssertionError, match=re.escape(words)):
        run(command.replace(old, new))
