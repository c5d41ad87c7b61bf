"""The release workflow publishes what the repository builds, with least privilege; and a version has its notes."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

import vfmalign

ROOT = Path(__file__).resolve().parents[2]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
WORKFLOWS = {path.name: yaml.safe_load(path.read_text()) for path in (ROOT / ".github/workflows").glob("*.yaml")}
RELEASE = WORKFLOWS["release.yaml"]
JOBS: dict[str, Any] = RELEASE["jobs"]
ALLOWED = {"images": {"packages": "write"}, "publish": {"packages": "write", "contents": "write"}}
"""What jobs may do besides reading the repository."""
CHANGELOG = """# Changelog

## 0.2.0 (unreleased)

## 0.1.0 (2026-12-01)

### Added

- A tail (see below).

## 0.0.1 (2026-11-01)
"""


@pytest.fixture(scope="module")
def notes() -> ModuleType:
    spec = importlib.util.spec_from_file_location("release_notes", ROOT / "deploy/release_notes.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def list_steps() -> list[dict[str, Any]]:
    return [step for job in JOBS.values() for step in job.get("steps", ())]


def test_the_notes_are_the_section_of_the_version(notes: ModuleType) -> None:
    assert notes.get_notes("v0.1.0", "0.1.0", CHANGELOG) == "### Added\n\n- A tail (see below)."


@pytest.mark.parametrize(
    ("tag", "version", "problem"),
    [
        ("v0.1.1", "0.1.0", "The tag v0.1.1 is not v0.1.0"),
        ("0.1.0", "0.1.0", "The tag 0.1.0 is not v0.1.0"),
        ("v0.2.0", "0.2.0", "The section for 0.2.0 is unreleased"),
        ("v0.3.0", "0.3.0", "no section for 0.3.0"),
        ("v0.1", "0.1", "no section for 0.1"),
    ],
)
def test_a_tag_that_is_not_ready_is_refused(notes: ModuleType, tag: str, version: str, problem: str) -> None:
    with pytest.raises(ValueError, match=re.escape(problem)):
        notes.get_notes(tag, version, CHANGELOG)


def test_the_changelog_has_a_section_for_the_version() -> None:
    heading = rf"^## {re.escape(VERSION)} \((unreleased|\d{{4}}-\d{{2}}-\d{{2}})\)$"
    assert len(re.findall(heading, (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)) == 1


def test_every_file_states_the_version() -> None:
    patterns = {
        "deploy/compose.yaml": r"VFMALIGN_VERSION:-([^}]+)}",
        "deploy/Dockerfile": r"ARG VERSION=(\S+)",
        "k8s/**/*.yaml": r"(?:newTag|app\.kubernetes\.io/version): \"?([\w.]+)",
        "docs/operations.md": r"vfmalign/\w+:(\d[\w.]+)",
    }
    assert vfmalign.__version__ == VERSION
    for pattern, expression in patterns.items():
        versions = {found for path in ROOT.glob(pattern) for found in re.findall(expression, path.read_text())}
        assert versions == {VERSION}, pattern


def test_every_image_of_the_dockerfile_is_published() -> None:
    dockerfile = (ROOT / "deploy/Dockerfile").read_text()
    titles = set(re.findall(r"image\.title=vfmalign-([\w-]+)", dockerfile))
    makefile = re.search(r"^IMAGES +\?= (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert makefile is not None
    matrix = JOBS["images"]["strategy"]["matrix"]
    assert set(matrix["image"]) == set(makefile[1].split()) == titles
    assert {one["image"] for one in matrix["include"] if one["torch"] == "cuda"} <= titles


def test_images_are_pushed_by_digest_with_provenance_and_sbom() -> None:
    (build,) = (step["with"] for step in list_steps() if step.get("uses", "").startswith("docker/build-push-action@"))
    assert "push-by-digest=true" in build["outputs"].split(",")
    assert "tags" not in build
    assert (build["provenance"], build["sbom"]) == ("mode=max", True)
    arguments = dict(line.split("=", 1) for line in build["build-args"].splitlines())
    assert arguments.keys() == {"BASE", "TORCH", "TORCH_INDEX", "VERSION", "REVISION"}
    assert set(re.findall(r"^ARG (\w+)=", (ROOT / "deploy/Dockerfile").read_text(), re.MULTILINE)) >= arguments.keys()


def test_nothing_is_published_before_everything_is_built_and_tested() -> None:
    assert RELEASE[True] == {"push": {"tags": ["v*"]}}, "YAML reads the key `on` as true"
    needs = {name: job.get("needs", []) for name, job in JOBS.items()}
    assert set(needs["publish"]) == {"notes", "packages", "base", "images"}
    assert set(needs["images"]) == {"test", "base"}
    assert needs["test"] == needs["packages"] == needs["base"] == "notes"
    assert "workflow_call" in WORKFLOWS["ci.yaml"][True]


def test_jobs_have_the_permissions_that_they_need_alone() -> None:
    assert RELEASE["permissions"] == {}
    for name, job in JOBS.items():
        assert {"contents": "read"} | ALLOWED.get(name, {}) == {"contents": "read"} | job["permissions"], name
    for step in list_steps():
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"] == {"persist-credentials": False}


@pytest.mark.parametrize("name", WORKFLOWS)
def test_actions_are_pinned_by_commit_and_scripts_take_no_expressions(name: str) -> None:
    """A tag can be moved to other code. An expression in a script is code: the name of a tag could hold a command."""
    for line in (ROOT / ".github/workflows" / name).read_text().splitlines():
        if "uses: " in line and "uses: ./" not in line:
            assert re.search(r"uses: (actions|docker)/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line), line
    for job in WORKFLOWS[name]["jobs"].values():
        for step in job.get("steps", ()):
            script = step.get("run", "")
            if name == "release.yaml":
                assert "${{" not in script
            subprocess.run(["bash", "-n"], input=script, text=True, check=True)


@pytest.mark.parametrize("digest", [f"sha256:{'0' * 64}", "", "sha256:0", "latest"])
def test_images_are_built_on_a_base_with_a_digest(tmp_path: Path, digest: str) -> None:
    """The script that resolves it, with a program that prints a digest."""
    (tmp_path / "docker").write_text(f'#!/bin/sh\nif [ "$4" = python:3.11-slim ]; then echo "{digest}"; fi\n')
    (tmp_path / "docker").chmod(0o755)
    (step,) = (step for step in JOBS["base"]["steps"] if step.get("id") == "base")
    environment = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "GITHUB_OUTPUT": str(tmp_path / "output")}
    if len(digest) < 64:
        with pytest.raises(subprocess.CalledProcessError):
            run_script(step["run"], ROOT, environment)
        assert not (tmp_path / "output").exists()
        return
    run_script(step["run"], ROOT, environment)
    assert (tmp_path / "output").read_text() == f"image=python:3.11-slim@{digest}\n"
    (build,) = (step["with"] for step in list_steps() if step.get("uses", "").startswith("docker/build-push-action@"))
    assert JOBS["base"]["outputs"] == {"image": "${{ steps.base.outputs.image }}"}
    assert "BASE=${{ needs.base.outputs.image }}" in build["build-args"].splitlines()


def test_the_release_names_every_image_with_tag_and_digest(tmp_path: Path) -> None:
    """The scripts of the last two jobs, with programs that print what they are asked."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("docker", "gh"):
        (programs / name).write_text(f'#!/bin/sh\necho "{name} $*" >> calls\n')
        (programs / name).chmod(0o755)
    (tmp_path / "notes.md").write_text("### Added\n")
    environment = {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "GITHUB_REF_NAME": f"v{VERSION}",
        "NAME": "ghcr.io/owner/vfmalign/mmd",
        "BASE": "python:3.11-slim@sha256:0",
        "VERSION": VERSION,
        "IMAGE": "mmd",
    }
    (name_image,) = (step["run"] for step in JOBS["images"]["steps"] if "DIGEST" in step.get("env", {}))
    for torch, digest in (("cpu", "sha256:1"), ("cuda", "sha256:2")):
        run_script(name_image, tmp_path, environment | {"TORCH": torch, "DIGEST": digest})
    for step in JOBS["publish"]["steps"]:
        run_script(step.get("run", ""), tmp_path, environment)
    images = [f"ghcr.io/owner/vfmalign/mmd:{VERSION}{suffix}" for suffix in ("-cuda@sha256:2", "@sha256:1")]
    assert (tmp_path / "images.txt").read_text().split() == images
    calls = (tmp_path / "calls").read_text().splitlines()
    tag = "docker buildx imagetools create --tag ghcr.io/owner/vfmalign/mmd"
    assert calls[0] == f"{tag}:{VERSION}-cuda ghcr.io/owner/vfmalign/mmd@sha256:2"
    assert calls[1] == f"{tag}:{VERSION} ghcr.io/owner/vfmalign/mmd@sha256:1"
    assert calls[2].startswith(f"gh release create v{VERSION} --verify-tag --title vfmalign {VERSION} ")
    body = (tmp_path / "body.md").read_text()
    assert body.startswith("### Added\n")
    assert all(image in body for image in [*images, environment["BASE"]])


def run_script(script: str, folder: Path, environment: dict[str, str]) -> None:
    subprocess.run(["bash", "-eo", "pipefail", "-c", script], cwd=folder, env=environment, check=True)
