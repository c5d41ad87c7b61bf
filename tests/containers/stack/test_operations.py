"""Follow the procedures of docs/operations.md that need no cluster, on a stack that has run the demo."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.containers.conftest import UP_TIMEOUT_S, VERSION, Compose, docker, docker_bytes, image
from tests.unit.imaging.datasets.brain_files import lay_out_decathlon, load_cases

from vfmalign.v1 import alignment_pb2

DATABASES = {"finetuning": "vfmalign", "monitoring": "vfmalign_monitoring"}
"""The databases on the server, by the service that each belongs to."""
TAR = ("--entrypoint", "tar", image("postgres"), "-C", "/data")


def show_check(compose: Compose, check_id: str) -> Any:
    """Returns the JSON of `vfmalign checks show`, run in a new container."""
    return json.loads(compose("run", "--rm", "-T", "cli", "checks", "show", check_id, "--json"))


def list_monitors(compose: Compose) -> Any:
    """Returns what a client in a new container reads of every monitor."""
    listing = (
        "import json; from vfmalign.client import Client; client = Client(wait_for_ready=True); "
        "print(json.dumps([client.monitors.get(one.monitor_id).to_json_dict() for one in client.monitors.list()]))"
    )
    return json.loads(compose("run", "--rm", "-T", "--entrypoint", "python", "cli", "-c", listing))


def dump_databases(compose: Compose) -> dict[str, str]:
    """Returns the dump of each database."""
    return {name: compose("exec", "-T", "postgres", "pg_dump", name) for name in DATABASES.values()}


def restore_databases(compose: Compose, dumps: dict[str, str]) -> None:
    """Restores each database, which is empty."""
    for name, dump in dumps.items():
        compose("exec", "-T", "postgres", "psql", "-d", name, "-q", "-v", "ON_ERROR_STOP=1", stdin=dump)


@pytest.mark.timeout(3 * UP_TIMEOUT_S)
def test_credentials_can_be_rotated(compose: Compose, demo: Any, checks: Any, owner_token: Path) -> None:
    password = secrets.token_hex(16)
    compose("exec", "-T", "postgres", "psql", "-c", f"ALTER ROLE vfmalign PASSWORD '{password}'")
    compose.environment["POSTGRES_PASSWORD"] = password
    show_keys = "print(open('/run/vfmalign/credentials').read())"
    keys = compose("exec", "-T", "features", "python", "-c", show_keys)
    compose("run", "--rm", "credentials", "--renew")
    assert compose("exec", "-T", "features", "python", "-c", show_keys) != keys
    compose("up", "--detach", "--wait", "--force-recreate")
    request = alignment_pb2.GetCheckRequest(check_id=demo["check"]["check_id"])
    with pytest.raises(grpc.RpcError, match="signed by a key that its issuer does not publish"):
        checks.GetCheck(request, timeout=60, wait_for_ready=True)
    compose("cp", "credentials:/data/owner/token", str(owner_token))
    check = checks.GetCheck(request, timeout=60).check
    assert check.state == alignment_pb2.CHECK_STATE_SUCCEEDED
    doctor = json.loads(compose("run", "--rm", "-T", "cli", "doctor", "--json"))
    assert doctor["ok"], doctor


@pytest.mark.timeout(4 * UP_TIMEOUT_S)
def test_a_backup_restores_lost_volumes(compose: Compose, demo: Any) -> None:
    check_id = demo["check"]["check_id"]
    before, volume = show_check(compose, check_id), f"{compose.project}_s3"
    monitors = list_monitors(compose)
    compose("stop", "monitoring")
    dumps = dump_databases(compose)
    compose("stop", "s3")
    objects = docker_bytes("run", "--rm", "-v", f"{volume}:/data:ro", *TAR, "-cf", "-", ".", timeout_s=UP_TIMEOUT_S)
    compose("start", "s3", "monitoring")
    compose("run", "--rm", "-T", "cli", "checks", "report", check_id, "--reports", "/tmp")
    compose("down", "--volumes")

    compose("up", "--no-start", "s3")
    docker_bytes("run", "--rm", "-i", "-v", f"{volume}:/data", *TAR, "-xf", "-", stdin=objects, timeout_s=UP_TIMEOUT_S)
    compose("up", "--detach", "--wait", "postgres")
    restore_databases(compose, dumps)
    compose("up", "--detach", "--wait")
    assert show_check(compose, check_id) == before
    assert list_monitors(compose) == monitors
    compose("run", "--rm", "-T", "cli", "checks", "report", check_id, "--reports", "/tmp")


@pytest.mark.timeout(2 * UP_TIMEOUT_S)
def test_volumes_of_the_host_can_be_imported(compose: Compose, shared_folder: Path, tmp_path: Path) -> None:
    data = lay_out_decathlon(tmp_path / "volumes", load_cases(shared_folder))
    for path in (data, *data.rglob("*")):
        path.chmod(0o755)
    mounts = (f"--volume={data}:/import:ro", f"--volume={compose.project}_imports:/data")
    for _ in range(2):  # the volume keeps the secret that ids derive from
        command = ("dataset", "import", "/import", "--home", "/data", "--id", "brains")
        compose("run", "--rm", "-T", *mounts, "cli", *command)
    shown = json.loads(compose("run", "--rm", "-T", "cli", "dataset", "show", "brains", "--json"))
    assert shown["dataset"] == "brains"
    docker("volume", "rm", f"{compose.project}_imports")


@pytest.fixture
def next_version() -> Iterator[str]:
    """Tags the same images as the next version."""
    name = f"{VERSION}-next"
    repositories = docker("images", "--filter", f"reference={image('*')}", "--format", "{{.Repository}}").split()
    for repository in repositories:
        docker("tag", f"{repository}:{VERSION}", f"{repository}:{name}")
    yield name
    for repository in repositories:
        docker("rmi", f"{repository}:{name}")


@pytest.mark.timeout(4 * UP_TIMEOUT_S)
def test_a_backup_rolls_an_upgrade_back(compose: Compose, demo: Any, next_version: str) -> None:
    check_id = demo["check"]["check_id"]
    before, monitors = show_check(compose, check_id), list_monitors(compose)
    dumps = dump_databases(compose)
    try:
        compose.environment["VFMALIGN_VERSION"] = next_version
        compose("up", "--detach", "--wait")
        running = [json.loads(line)["Image"] for line in compose("ps", "--format", "json").splitlines()]
        assert running
        assert all(one.endswith(f":{next_version}") for one in running)
        assert show_check(compose, check_id) == before
        # Pretend that the next version has migrated the database.
        for service, database in DATABASES.items():
            later = f"UPDATE {service}_version SET version_num = '9999'"
            compose("exec", "-T", "postgres", "psql", "-d", database, "-c", later)
    finally:
        compose.environment["VFMALIGN_VERSION"] = VERSION

    compose("up", "--detach")
    message, deadline = "the database was migrated by a later version", time.monotonic() + UP_TIMEOUT_S
    while not all(message in compose("logs", "--no-color", service) for service in DATABASES):
        assert time.monotonic() < deadline, "an older service does not log why it stops"
        time.sleep(1)
    compose("stop", *DATABASES)
    for database in DATABASES.values():
        emptying = ("-c", "DROP SCHEMA public CASCADE", "-c", "CREATE SCHEMA public")
        compose("exec", "-T", "postgres", "psql", "-d", database, "-q", *emptying)
    restore_databases(compose, dumps)
    compose("up", "--detach", "--wait")
    assert show_check(compose, check_id) == before
    assert list_monitors(compose) == monitors


@pytest.mark.timeout(2 * UP_TIMEOUT_S)
def test_a_stack_of_an_earlier_version_gets_the_databases_of_later_services(compose: Compose) -> None:
    compose("stop", "monitoring")
    compose("exec", "-T", "postgres", "psql", "-c", f"DROP DATABASE {DATABASES['monitoring']}")
    compose("restart", "postgres")
    compose("up", "--detach", "--wait")
    assert list_monitors(compose) == []
