"""Check every image: its user, its contents, and that its program runs on a read-only root without capabilities."""

from __future__ import annotations

import json
import subprocess
import zlib
from typing import Any

import pytest
from tests.containers.conftest import PACKAGES, VERSION, docker, image

LOCKED_UP = ("--rm", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--network", "none")
MAX_BYTES = {"finetuning": 250 * 10**6, "monitoring": 150 * 10**6}


def run(name: str, *arguments: str, python: bool = False) -> str:
    """Runs a container that can write to /tmp only, and returns its output."""
    entrypoint = ("--entrypoint", "python") if python else ()
    return docker("run", *LOCKED_UP, "--tmpfs", "/tmp", *entrypoint, image(name), *arguments)


@pytest.mark.parametrize("name", PACKAGES)
def test_its_program_prints_its_version(name: str) -> None:
    assert VERSION in run(name, "--version")


@pytest.mark.parametrize("name", PACKAGES)
def test_it_contains_only_its_packages(name: str) -> None:
    listing = "import pkgutil, vfmalign; print(*(m.name for m in pkgutil.iter_modules(vfmalign.__path__) if m.ispkg))"
    # Importing the programs shows that all their dependencies are there.
    programs = sorted(PACKAGES[name] & {"features", "mmd", "training", "finetuning", "monitoring", "cli"})
    importing = "; ".join(f"import vfmalign.{program}.__main__" for program in programs)
    importing += "; import vfmalign.training.job" if "training" in programs else ""
    torch = "import importlib.util; print(importlib.util.find_spec('torch') is not None)"
    packages, has_torch = run(name, "-c", f"{listing}; {importing}; {torch}", python=True).splitlines()
    assert set(packages.split()) == PACKAGES[name]
    assert has_torch == str(name not in {"finetuning", "monitoring", "cli"})


@pytest.mark.parametrize("name", PACKAGES)
def test_it_runs_as_an_unprivileged_user_and_has_no_shell(name: str) -> None:
    tools = "('/bin/sh', '/bin/bash', '/usr/bin/apt-get', '/opt/vfmalign/bin/pip')"
    listing = f"import os; print(os.getuid(), [tool for tool in {tools} if os.path.exists(tool)])"
    assert run(name, "-c", listing, python=True).split() == ["10001", "[]"]
    config = inspect(name)["Config"]
    assert config["User"] == "10001:10001"
    assert config["Labels"]["org.opencontainers.image.title"] == f"vfmalign-{name}"
    assert config["Labels"]["org.opencontainers.image.version"] == VERSION
    assert config["Labels"]["org.opencontainers.image.revision"] not in {"", "unknown"}
    serves = name in {"features", "mmd", "finetuning", "finetuning-local", "monitoring"}
    assert config["Healthcheck"]["Test"][0] == ("CMD" if serves else "NONE")


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("features", "is not set; --help lists every setting"),
        ("mmd", "VFMALIGN_AUTH__MODE is off"),  # it needs no store, but callers who are known
        ("finetuning", "is not set; --help lists every setting"),
        ("monitoring", "is not set; --help lists every setting"),
    ],
)
def test_a_service_names_a_missing_setting(name: str, missing: str) -> None:
    command = ["docker", "run", *LOCKED_UP, "--tmpfs", "/tmp", image(name)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 2
    assert missing in result.stderr


@pytest.mark.parametrize("name", MAX_BYTES)
def test_an_image_without_torch_is_small(name: str) -> None:
    """Measures the compressed size, which registries store and nodes pull; theirs is smaller, as they compress more."""
    compressor, size = zlib.compressobj(level=1), 0
    with subprocess.Popen(["docker", "save", image(name)], stdout=subprocess.PIPE) as saving:
        assert saving.stdout is not None
        while block := saving.stdout.read(2**20):
            size += len(compressor.compress(block))
    print(f"{name}: {size / 1e6:.0f} MB to pull, {inspect(name)['Size'] / 1e6:.0f} MB unpacked")
    assert 10**7 < size < MAX_BYTES[name]


def inspect(name: str) -> Any:
    """Returns the configuration of an image."""
    return json.loads(docker("image", "inspect", image(name)))[0]
