"""Every image: who it runs as, what it holds, and that its program starts on a read-only root without any right."""

from __future__ import annotations

import json
import subprocess
import zlib
from typing import Any

import pytest
from tests.containers.conftest import ROOMS, VERSION, docker, image

LOCKED_UP = ("--rm", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--network", "none")
MAX_FINETUNING_BYTES = 250 * 10**6


def run(name: str, *arguments: str, python: bool = False) -> str:
    """Output of a container that may write to /tmp alone."""
    entrypoint = ("--entrypoint", "python") if python else ()
    return docker("run", *LOCKED_UP, "--tmpfs", "/tmp", *entrypoint, image(name), *arguments)


@pytest.mark.parametrize("name", ROOMS)
def test_its_program_says_its_version(name: str) -> None:
    assert VERSION in run(name, "--version")


@pytest.mark.parametrize("name", ROOMS)
def test_it_holds_its_rooms_alone(name: str) -> None:
    listing = "import pkgutil, vfmalign; print(*(m.name for m in pkgutil.iter_modules(vfmalign.__path__) if m.ispkg))"
    # The programs with all that they import, not the packages alone.
    rooms = sorted(ROOMS[name] - {"v1", "core", "imaging", "models"})
    importing = "; ".join(f"import vfmalign.{room}.__main__" for room in rooms)
    importing += "; import vfmalign.training.job" if "training" in rooms else ""
    torch = "import importlib.util; print(importlib.util.find_spec('torch') is not None)"
    found, has_torch = run(name, "-c", f"{listing}; {importing}; {torch}", python=True).splitlines()
    assert set(found.split()) == ROOMS[name]
    assert has_torch == str(name != "finetuning")


@pytest.mark.parametrize("name", ROOMS)
def test_nobody_in_it_is_root_and_no_shell_is_there(name: str) -> None:
    tools = "('/bin/sh', '/bin/bash', '/usr/bin/apt-get', '/opt/vfmalign/bin/pip')"
    looking = f"import os; print(os.getuid(), [tool for tool in {tools} if os.path.exists(tool)])"
    assert run(name, "-c", looking, python=True).split() == ["10001", "[]"]
    config = inspect(name)["Config"]
    assert config["User"] == "10001:10001"
    assert config["Labels"]["org.opencontainers.image.title"] == f"vfmalign-{name}"
    assert config["Labels"]["org.opencontainers.image.version"] == VERSION
    assert config["Labels"]["org.opencontainers.image.revision"] not in {"", "unknown"}
    serves = name in {"features", "mmd", "finetuning", "finetuning-local"}
    assert config["Healthcheck"]["Test"][0] == ("CMD" if serves else "NONE")


@pytest.mark.parametrize("name", ["features", "mmd", "finetuning"])
def test_a_service_without_settings_says_which_one_is_missing(name: str) -> None:
    command = ["docker", "run", *LOCKED_UP, "--tmpfs", "/tmp", image(name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2
    assert "is not set; --help lists every setting" in done.stderr


def test_the_orchestrator_s_image_is_small() -> None:
    """As a registry keeps and a node pulls it: compressed."""
    packer, size = zlib.compressobj(level=6), 0
    with subprocess.Popen(["docker", "save", image("finetuning")], stdout=subprocess.PIPE) as saving:
        assert saving.stdout is not None
        while block := saving.stdout.read(2**20):
            size += len(packer.compress(block))
    print(f"finetuning: {size / 1e6:.0f} MB to pull, {inspect('finetuning')['Size'] / 1e6:.0f} MB unpacked")
    assert 10**7 < size < MAX_FINETUNING_BYTES


def inspect(name: str) -> Any:
    """What the engine knows of an image."""
    return json.loads(docker("image", "inspect", image(name)))[0]
