"""The stack of deploy/compose.yaml under a name, credentials and ports of its own. Needs `make images`."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import grpc
import pytest
from tests.e2e.conftest import OPTIONS

from vfmalign.cli.local.s3_server import free_ports
from vfmalign.v1 import alignment_pb2_grpc

ROOT = Path(__file__).resolve().parents[2]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
UP_TIMEOUT_S = 300
CHECK_TIMEOUT_S = 900.0
SEED = "3"
ROOMS = {
    "features": {"v1", "core", "imaging", "models", "features"},
    "mmd": {"v1", "core", "mmd"},
    "training": {"v1", "core", "imaging", "models", "training"},
    "finetuning": {"v1", "core", "finetuning"},
    "finetuning-local": {"v1", "core", "imaging", "models", "training", "finetuning"},
    "cli": {"v1", "core", "imaging", "models", "cli"},
}
"""What each image may hold of the package."""


def image(name: str) -> str:
    """Reference of an image."""
    return f"vfmalign/{name}:{VERSION}"


def docker(*arguments: str, timeout_s: float = 120) -> str:
    """Runs one docker command; its output, or a failure with all it said."""
    return docker_bytes(*arguments, timeout_s=timeout_s).decode()


def docker_bytes(
    *arguments: str, fed: bytes | None = None, timeout_s: float = 120, options: Mapping[str, str] = MappingProxyType({})
) -> bytes:
    """Runs one docker command with an input, an output of any kind, and further environment variables."""
    command = ["docker", *arguments]
    environment = {**os.environ, **options}
    done = subprocess.run(command, input=fed, capture_output=True, check=False, timeout=timeout_s, env=environment)
    said = f"{done.stderr.decode(errors='replace')}\n{done.stdout[-4000:].decode(errors='replace')}"
    assert done.returncode == 0, f"{' '.join(arguments)} ended with {done.returncode}:\n{said}"
    return done.stdout


@pytest.fixture(scope="session", autouse=True)
def engine() -> None:
    """Skips where there is no engine, or nothing was built."""
    docker_runs = shutil.which("docker") and not subprocess.run(["docker", "info"], capture_output=True).returncode
    if not docker_runs:
        pytest.skip("no Docker engine runs here")
    built = docker("images", "--filter", f"reference=vfmalign/*:{VERSION}", "--format", "{{.Repository}}").split()
    if missing := [name for name in ROOMS if f"vfmalign/{name}" not in built]:
        pytest.skip(f"make images has not built {', '.join(missing)}")


@dataclass
class Compose:
    """A running stack."""

    project: str
    ports: dict[str, int]
    environment: dict[str, str]

    def __call__(self, *arguments: str, fed: str | None = None, timeout_s: float = UP_TIMEOUT_S) -> str:
        """One `docker compose` command."""
        command = ("compose", "-p", self.project, "-f", str(ROOT / "deploy" / "compose.yaml"), *arguments)
        fed_bytes = fed.encode() if fed else None
        return docker_bytes(*command, fed=fed_bytes, timeout_s=timeout_s, options=self.environment).decode()

    def restart(self, service: str) -> None:
        """Kills a service's container with SIGKILL and starts it again."""
        self("kill", "--signal", "SIGKILL", service)
        self("start", service)


@pytest.fixture(scope="session")
def compose() -> Iterator[Compose]:
    """The whole system, up and healthy."""
    ports = dict(zip(("FEATURES_PORT", "MMD_PORT", "FINETUNING_PORT", "PROMETHEUS_PORT"), free_ports(4), strict=True))
    secret = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "POSTGRES_PASSWORD")
    environment = {name: secrets.token_hex(16) for name in secret} | {name: str(port) for name, port in ports.items()}
    environment["VFMALIGN_VERSION"] = VERSION
    result = Compose(f"vfmalign-test-{secrets.token_hex(3)}", ports, environment)
    try:
        result("up", "--detach", "--wait")
        yield result
    finally:
        print(result("logs", "--no-color", "--tail", "40"))
        result("--profile", "cli", "down", "--volumes", "--timeout", "5")


@pytest.fixture(scope="session")
def demo(compose: Compose) -> Any:
    """What `vfmalign demo` says, run in the cli's container."""
    command = ("demo", "--seed", SEED, "--json", "--reports", "/tmp/reports")
    return json.loads(compose("run", "--rm", "-T", "cli", *command, timeout_s=CHECK_TIMEOUT_S))


@pytest.fixture(scope="session")
def checks(compose: Compose) -> Any:
    """The alignment service, over the published port."""
    channel = grpc.insecure_channel(f"127.0.0.1:{compose.ports['FINETUNING_PORT']}", OPTIONS)
    return alignment_pb2_grpc.AlignmentServiceStub(channel)
