"""The commands of docs/tutorial.md run in order, as a reader would type them, on small synthetic volumes.

Commands and trainings are forks of an interpreter that has imported torch, and trainings run at once, as in the other
end-to-end tests.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from tests.preloaded import get_command
from tests.unit.imaging.datasets.brain_files import lay_out_folders, make_case

from vfmalign.cli.local.environment import get_small_network_settings
from vfmalign.core.domain.patients import MIN_GROUPS

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/tutorial.md").read_text()
NOT_RUN = "# not run by a test: "
GATE_FAILED = 5
PATIENTS = 24


def read_blocks(language: str) -> list[str]:
    """Returns the fenced blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def environment(python_server: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The variables of the shell, with `vfmalign` on the path."""
    programs = tmp_path_factory.mktemp("bin")
    vfmalign = programs / "vfmalign"
    vfmalign.write_text(f'#!/bin/sh\nexec {shlex.join(get_command(python_server, ["-m", "vfmalign.cli"]))} "$@"\n')
    vfmalign.chmod(0o755)
    command = json.dumps(get_command(python_server, ["-m", "vfmalign.training"]))
    path = os.pathsep.join((str(programs), str(Path(sys.executable).parent), os.environ["PATH"]))
    return {**os.environ, **get_small_network_settings(), "VFMALIGN_LAUNCHER__COMMAND": command, "PATH": path}


def run_block(script: str, folder: Path, environment: dict[str, str]) -> int:
    """Runs commands in a shell and returns its exit code."""
    command = ["bash", "-euo", "pipefail", "-c", script]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=400
    )
    assert done.returncode in {0, GATE_FAILED}, f"{script}\n{done.stdout}{done.stderr}"
    assert "Traceback" not in done.stderr
    return done.returncode


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The reader's folder: volumes in the layout of the page, and its declaration."""
    lay_out_folders(tmp_path / "volumes", [make_case(number) for number in range(PATIENTS)])
    (declaration,) = read_blocks("json")
    (tmp_path / "brains.json").write_text(declaration)
    return tmp_path


def test_the_volumes_have_the_names_of_the_page(folder: Path) -> None:
    (tree,) = read_blocks("text")
    assert set(re.findall(r"^    (\S+)$", tree, re.MULTILINE)) == {path.name for path in folder.rglob("*.nii.gz")}


def test_the_commands_lead_to_a_gated_check(folder: Path, environment: dict[str, str]) -> None:
    codes = {}
    try:
        for script in read_blocks("bash"):
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
