"""`.ci/run` on a bare machine: what it installs, and which steps it then runs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ("bash", "cat", "cp", "dirname", "env", "mkdir", "seq", "timeout", "xargs")
OTHERS = {name: (name,) for name in ("chromium", "docker-buildx", "docker-compose", "fish", "kubectl", "prometheus")}
# The programs that packages of Debian contain.
PACKAGES = {
    12: OTHERS | {"docker.io": ("dockerd", "docker")},
    13: OTHERS | {"docker.io": ("dockerd",), "docker-cli": ("docker",)},
}
# Like the real one, it installs nothing where one package is unknown.
APT_GET = """
[ "$1" = install ] || exit 0
for package in "${@:2}"; do
  case $package in -* | iptables | %s) ;; *) exit 100 ;; esac
done
for package in "${@:2}"; do
  case $package in
    %s
  esac
done
"""


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A folder with `.ci/run` and, in `bin`, the programs of a bare machine, which write `log`."""
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci" / "run")
    programs = tmp_path / "bin"
    programs.mkdir()
    for tool in TOOLS:
        (programs / tool).symlink_to(str(shutil.which(tool)))
    add_program(programs, "id", "echo 0")
    for name in ("make", "python3.11", "sleep"):
        add_program(programs, name)
    return tmp_path


def add_program(folder: Path, name: str, lines: str = "") -> None:
    """Adds a program that logs how it is called."""
    (folder / name).write_text(f'#!/bin/bash\necho "${{0##*/}} $*" >> "${{0%/*}}/../log"\n{lines}\n')
    (folder / name).chmod(0o755)


def run(machine: Path) -> tuple[list[str], str]:
    """Runs `.ci/run`; returns the steps of make, and what it printed."""
    environment = {"PATH": str(machine / "bin"), "TMPDIR": str(machine)}
    result = subprocess.run([machine / ".ci" / "run"], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    steps = [line for line in (machine / "log").read_text().splitlines() if line.startswith("make ")]
    return steps, result.stdout


@pytest.mark.parametrize("debian", PACKAGES)
def test_containers_are_tested_on_a_bare_machine(machine: Path, debian: int) -> None:
    packages = PACKAGES[debian]
    copies = {name: "; ".join(f"cp ${{0%/*}}/sleep ${{0%/*}}/{one}" for one in own) for name, own in packages.items()}
    cases = "\n    ".join(f"{name}) {copy} ;;" for name, copy in copies.items())
    add_program(machine / "bin", "apt-get", APT_GET % (" | ".join(packages), cases))
    steps, printed = run(machine)
    assert steps[-1] == "make test-containers", printed
    assert "make k8s-check" in steps


def test_an_engine_that_does_not_start_is_reported_and_fails_nothing(machine: Path) -> None:
    add_program(machine / "bin", "apt-get", "exit 100")
    add_program(machine / "bin", "dockerd", "exit 1")
    add_program(machine / "bin", "docker", "exit 1")
    steps, printed = run(machine)
    assert "make test-containers" not in steps
    assert "NOT RUN: make test-containers" in printed
