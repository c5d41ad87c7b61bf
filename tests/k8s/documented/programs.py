"""Stand-ins for the programs of documented commands. `python -m tests.k8s.documented.programs NAME …` runs one."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.k8s.rendering import ROOT

NO_DAEMON = "unix:///nonexistent/docker.sock"
# Subcommands whose first positional argument is a service, and those that take services only.
_ONE_SERVICE, _SERVICES = {"exec", "run"}, {"up", "stop", "start", "restart", "logs"}


def install(folder: Path) -> None:
    """Writes an executable for each program into a folder, which then comes first in PATH."""
    modules = {name: f"-m tests.k8s.documented.programs {name}" for name in ("docker", "kind", "make", "vfmalign")}
    for name, arguments in (modules | {"python": ""}).items():
        path = folder / name
        path.write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
        path.chmod(path.stat().st_mode | stat.S_IXUSR)


def make(arguments: Sequence[str]) -> int:
    """Prints what make would do; a target that does not exist fails."""
    return subprocess.run([_find("make"), "-n", *arguments], stdout=subprocess.DEVNULL, check=False).returncode


def vfmalign(arguments: Sequence[str]) -> int:
    """Parses the arguments of a command without running it."""
    from typer.core import TyperCommand

    from vfmalign.cli.__main__ import run

    TyperCommand.invoke = lambda self, ctx: None  # type: ignore[method-assign]
    return run(arguments)


def docker(arguments: Sequence[str]) -> int:
    """Lets docker parse its arguments and reads its files, up to the call of a daemon that does not exist."""
    program, environment = _find("docker"), os.environ | {"DOCKER_HOST": NO_DAEMON}
    if "--help" not in arguments and arguments[0] == "compose":
        listing = [program, "compose", "-f", str(ROOT / "deploy" / "compose.yaml"), "--profile", "*", "config"]
        services = subprocess.run(
            [*listing, "--services"], env=environment, capture_output=True, text=True, check=True
        ).stdout.split()
        if unknown := [name for name in _list_services(arguments) if name not in services]:
            print(f"no such service: {', '.join(unknown)}", file=sys.stderr)
            return 1
    # Versions of docker word the error differently; all of them name the address.
    result = subprocess.run([program, *arguments], env=environment, capture_output=True, text=True, check=False)
    if result.returncode == 0 or NO_DAEMON in result.stderr:
        return 0
    print(result.stderr, file=sys.stderr)
    return 1


def kind(arguments: Sequence[str]) -> int:
    """Checks a command of kind 0.24: its verbs, and that every image to load is one that `make images` builds."""
    if tuple(arguments[:2]) not in {("create", "cluster"), ("delete", "cluster"), ("load", "docker-image")}:
        return 1
    name, *images = arguments[2:]
    if (name, images[:1]) != ("--name", ["vfmalign"]):
        return 1
    built = subprocess.run(
        [_find("make"), "--no-print-directory", "-f", "-", "list"],
        input=f"include {ROOT / 'Makefile'}\nlist:\n\t@echo $(IMAGES:%=vfmalign/%:$(VERSION))\n",
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    return 0 if set(images[1:]) <= set(built) else 1


def _list_services(arguments: Sequence[str]) -> list[str]:
    """Returns the services that a compose command names."""
    command = next((name for name in arguments if name in _ONE_SERVICE | _SERVICES), None)
    if command is None:
        return []
    positional = [name for name in arguments[arguments.index(command) + 1 :] if not name.startswith("-")]
    return positional[:1] if command in _ONE_SERVICE else positional


def _find(name: str) -> str:
    """Returns the real program, which comes later in PATH than the one that `install` has written."""
    folders = os.environ["PATH"].split(os.pathsep)
    program = shutil.which(name, path=os.pathsep.join(folders[1:]))
    if program is None:
        raise SystemExit(f"{name} is not installed")
    return program


if __name__ == "__main__":
    programs = {"docker": docker, "kind": kind, "make": make, "vfmalign": vfmalign}
    sys.exit(programs[sys.argv[1]](sys.argv[2:]))
