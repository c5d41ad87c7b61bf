"""The README's tree, tour and commands are those of the repository."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def test_the_tree_is_the_repository_s() -> None:
    tree = README.split("## The tree")[1].split("```")[1]
    shown = {"": set(), "services/vfmalign/": set()}
    parent = ""
    for line in tree.strip("\n").splitlines():
        name = line.split()[0]
        if not line.startswith("  "):
            shown[""].add(name.split("/")[0])
            parent = name
        else:
            shown[parent].add(name.rstrip("/"))
    found = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    folders = {path.split("/")[0] for path in found if "/" in path and not path.startswith(".")}
    rooms = {path.split("/")[2] for path in found if path.startswith("services/vfmalign/") and path.count("/") > 2}
    assert shown[""] == folders
    assert shown["services/vfmalign/"] == rooms


def test_every_linked_file_exists() -> None:
    for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / link).is_file(), link


def test_every_make_target_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make ([a-z0-9-]+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_it_says_that_there_is_no_authentication() -> None:
    assert "no authentication yet: not for patient data" in README.lower().replace("\n", " ")
