"""The commands of docs/tutorial.md run in order, as a reader would type them, on small synthetic volumes.

Commands and trainings are forks of an interpreter that has imported torch, and trainings run at once, as in the other
end-to-end tests.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.documented_pages import NOT_RUN, read_blocks, run_block
from tests.unit.imaging.datasets.brain_files import lay_out_folders, make_case

from vfmalign.core.domain.patients import MIN_GROUPS

pytestmark = pytest.mark.e2e

PAGE = "tutorial.md"
PATIENTS = 24


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The reader's folder: volumes in the layout of the page, and its declaration."""
    lay_out_folders(tmp_path / "volumes", [make_case(number) for number in range(PATIENTS)])
    (declaration,) = read_blocks(PAGE, "json")
    (tmp_path / "brains.json").write_text(declaration)
    return tmp_path


def test_the_volumes_have_the_names_of_the_page(folder: Path) -> None:
    (tree,) = read_blocks(PAGE, "text")
    assert set(re.findall(r"^    (\S+)$", tree, re.MULTILINE)) == {path.name for path in folder.rglob("*.nii.gz")}


def test_the_commands_lead_to_a_gated_check(folder: Path, environment: dict[str, str]) -> None:
    codes = {}
    try:
        for script in read_blocks(PAGE, "bash"):
            if not script.startswith(NOT_RUN):
                codes[script] = run_block(script, folder, environment)
    finally:
        subprocess.run([sys.executable, "-m", "vfmalign.cli", "down"], cwd=folder, check=True, capture_output=True)
    shown = json.loads((folder / "gate.json").read_text())
    assert [script for script, code in codes.items() if code and "--require" not in script] == []
    (gated,) = (code for script, code in codes.items() if "--require" in script)
    assert shown["gate"]["passed"] == (gated == 0)
    assert shown["check"]["result"]["verdict"] == "VERDICT_INSUFFICIENT_TRAINING"
    assert gated == 5
    patients = shown["check"]["result"]["test_groups"]
    assert patients >= MIN_GROUPS, "the page's shares give too few test patients"
    assert (folder / "reports/rehearsal.html").is_file()
    assert (folder / ".vfmalign/private/mapping.csv").read_text().count("p1") >= 1
