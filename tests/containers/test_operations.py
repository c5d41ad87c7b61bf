"""The steps of docs/operations.md that need no cluster, on the stack that has run the demo."""

from __future__ import annotations

import json
import secrets
from typing import Any

import pytest
from tests.containers.conftest import UP_TIMEOUT_S, Compose, docker_bytes, image

from vfmalign.v1 import alignment_pb2

TAR = ("--entrypoint", "tar", image("postgres"), "-C", "/data")


def shown(compose: Compose, check_id: str) -> Any:
    """What the cli says of a check, in a container of its own."""
    return json.loads(compose("run", "--rm", "-T", "cli", "checks", "show", check_id, "--json"))


@pytest.mark.timeout(3 * UP_TIMEOUT_S)
def test_credentials_are_rotated(compose: Compose, demo: Any, checks: Any) -> None:
    password = secrets.token_hex(16)
    compose("exec", "-T", "postgres", "psql", "-c", f"ALTER ROLE vfmalign PASSWORD '{password}'")
    keys = {name: secrets.token_hex(16) for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    compose.environment |= {"POSTGRES_PASSWORD": password, **keys}
    compose("up", "--detach", "--wait", "--force-recreate")
    request = alignment_pb2.GetCheckRequest(check_id=demo["check"]["check_id"])
    check = checks.GetCheck(request, timeout=60, wait_for_ready=True).check
    assert check.state == alignment_pb2.CHECK_STATE_SUCCEEDED
    doctor = json.loads(compose("run", "--rm", "-T", "cli", "doctor", "--json"))
    assert doctor["ok"], doctor


@pytest.mark.timeout(4 * UP_TIMEOUT_S)
def test_a_backup_brings_back_what_was_lost(compose: Compose, demo: Any) -> None:
    check_id = demo["check"]["check_id"]
    before, volume = shown(compose, check_id), f"{compose.project}_s3"
    dump = compose("exec", "-T", "postgres", "pg_dump")
    compose("stop", "s3")
    objects = docker_bytes("run", "--rm", "-v", f"{volume}:/data:ro", *TAR, "-cf", "-", ".", timeout_s=UP_TIMEOUT_S)
    compose("down", "--volumes")

    compose("up", "--no-start", "s3")
    docker_bytes("run", "--rm", "-i", "-v", f"{volume}:/data", *TAR, "-xf", "-", fed=objects, timeout_s=UP_TIMEOUT_S)
    compose("up", "--detach", "--wait", "postgres")
    compose("exec", "-T", "postgres", "psql", "-q", "-v", "ON_ERROR_STOP=1", fed=dump)
    compose("up", "--detach", "--wait")
    assert shown(compose, check_id) == before
    compose("run", "--rm", "-T", "cli", "checks", "report", check_id, "--reports", "/tmp")
