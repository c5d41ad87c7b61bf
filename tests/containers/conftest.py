"""Run the stack of deploy/compose.yaml with its own project name, credentials and ports. Needs `make images`."""

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

import pytest
from tests.e2e.conftest import OPTIONS
from tests.tokens import open_channel

from vfmalign.cli.local.ports import free_ports
from vfmalign.v1 import alignment_pb2_grpc

ROOT = Path(__file__).resolve().parents[2]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
UP_TIMEOUT_S = 300
CHECK_TIMEOUT_S = 900.0
SEED = "3"
PACKAGES = {
    "features": {"v1", "core", "client", "erasure", "imaging", "models", "features"},
    "mmd": {"v1", "core", "client", "mmd"},
    "training": {"v1", "core", "client", "imaging", "models", "training"},
    "finetuning": {"v1", "core", "client", "database", "erasure", "analysis", "reports", "finetuning"},
    "finetuning-local": {
        "v1",
        "core",
        "client",
        "database",
        "erasure",
        "analysis",
        "reports",
        "imaging",
        "models",
        "training",
        "finetuning",
    },
    "monitoring": {"v1", "core", "client", "database", "erasure", "reports", "monitoring"},
    "cli": {"v1", "core", "client", "analysis", "cli"},
    "cli-imaging": {"v1", "core", "client", "analysis", "imaging", "models", "cli"},
}
"""The sub-packages of vfmalign in each image."""


def image(name: str) -> str:
    """Returns the reference of an image."""
    return f"vfmalign/{name}:{VERSION}"


def docker(*arguments: str, timeout_s: float = 120) -> str:
    """Runs a docker command and returns its output; a failure shows all that it wrote."""
    return docker_bytes(*arguments, timeout_s=timeout_s).decode()


def docker_bytes(
    *arguments: str,
    stdin: bytes | None = None,
    timeout_s: float = 120,
    options: Mapping[str, str] = MappingProxyType({}),
) -> bytes:
    """Runs a docker command with binary input and output and additional environment variables."""
    command = ["docker", *arguments]
    environment = {**os.environ, **options}
    result = subprocess.run(command, input=stdin, capture_output=True, check=False, timeout=timeout_s, env=environment)
    output = f"{result.stderr.decode(errors='replace')}\n{result.stdout[-4000:].decode(errors='replace')}"
    command_line = " ".join(command)
    assert result.returncode == 0, f"{command_line} failed with exit code {result.returncode}:\n{output}"
    return result.stdout


@pytest.fixture(scope="session", autouse=True)
def engine() -> None:
    """Skips without a Docker engine or without images."""
    docker_runs = shutil.which("docker") and not subprocess.run(["docker", "info"], capture_output=True).returncode
    if not docker_runs:
        pytest.skip("no Docker engine is running")
    built = docker("images", "--filter", f"reference=vfmalign/*:{VERSION}", "--format", "{{.Repository}}").split()
    if missing := [name for name in (*PACKAGES, "dicom-gateway") if f"vfmalign/{name}" not in built]:
        pytest.skip(f"images are missing: {', '.join(missing)}. Run make images")


@dataclass
class Compose:
    """A running stack; call it to run `docker compose` commands."""

    project: str
    ports: dict[str, int]
    environment: dict[str, str]

    def __call__(self, *arguments: str, stdin: str | None = None, timeout_s: float = UP_TIMEOUT_S) -> str:
        """Runs a `docker compose` command and returns its output."""
        command = ("compose", "-p", self.project, "-f", str(ROOT / "deploy" / "compose.yaml"), *arguments)
        input_bytes = stdin.encode() if stdin else None
        return docker_bytes(*command, stdin=input_bytes, timeout_s=timeout_s, options=self.environment).decode()

    def restart(self, service: str) -> None:
        """Kills the container of a service with SIGKILL and starts it again."""
        self("kill", "--signal", "SIGKILL", service)
        self("start", service)


@pytest.fixture(scope="session")
def compose() -> Iterator[Compose]:
    """Starts the whole system and waits until it is healthy."""
    names = ("FEATURES_PORT", "MMD_PORT", "FINETUNING_PORT", "MONITORING_PORT", "PROMETHEUS_PORT")
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    environment = {"POSTGRES_PASSWORD": secrets.token_hex(16), "VFMALIGN_VERSION": VERSION, "DICOM_DEVICES": "MR1"}
    environment["DIMSE_PORT"] = str(free_ports(1)[0])
    environment |= {name: str(port) for name, port in ports.items()}
    stack = Compose(f"vfmalign-test-{secrets.token_hex(3)}", ports, environment)
    try:
        stack("up", "--detach", "--wait")
        yield stack
    finally:
        print(stack("logs", "--no-color", "--tail", "40"))
        stack("--profile", "cli", "--profile", "dimse", "down", "--volumes", "--timeout", "5")


@pytest.fixture(scope="session")
def demo(compose: Compose) -> Any:
    """Runs `vfmalign demo` in the container of the command line and returns its JSON."""
    command = ("demo", "--seed", SEED, "--json", "--reports", "/tmp/reports")
    return json.loads(compose("run", "--rm", "-T", "cli", *command, timeout_s=CHECK_TIMEOUT_S))


@pytest.fixture(scope="session")
def owner_token(compose: Compose, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the owner's token, copied as the documentation says."""
    path = tmp_path_factory.mktemp("owner") / "token"
    compose("cp", "credentials:/data/owner/token", str(path))
    return path


@pytest.fixture(scope="session")
def checks(compose: Compose, owner_token: Path) -> Any:
    """Returns a stub of the alignment service at the published port."""
    channel = open_channel(f"127.0.0.1:{compose.ports['FINETUNING_PORT']}", owner_token, OPTIONS)
    return alignment_pb2_grpc.AlignmentServiceStub(channel)
