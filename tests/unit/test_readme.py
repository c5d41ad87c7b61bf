"""The README's tree, links and commands match the repository."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def test_the_tree_matches_the_repository() -> None:
    tree = README.split("## The tree")[1].split("```")[1]
    listed = {"": set(), "services/vfmalign/": set()}
    parent = ""
    for line in tree.strip("\n").splitlines():
        name = line.split()[0]
        if not line.startswith("  "):
            listed[""].add(name.split("/")[0])
            parent = name
        else:
            listed[parent].add(name.rstrip("/"))
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    folders = {path.split("/")[0] for path in files if "/" in path and not path.startswith(".")}
    packages = {path.split("/")[2] for path in files if path.startswith("services/vfmalign/") and path.count("/") > 2}
    assert listed[""] == folders
    assert listed["services/vfmalign/"] == packages


def test_every_linked_file_exists() -> None:
    for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / link).is_file(), link


def test_every_make_target_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make ([a-z0-9-]+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_it_says_what_to_read_before_patient_data_are_used() -> None:
    warning = README.partition("**Before you use patient data**")[2].partition("\n\n")[0]
    for page in ("docs/security.md#", "docs/privacy.md#", "docs/audit.md"):
        assert page in warning
