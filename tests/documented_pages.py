"""Pages of the documentation whose blocks tests run as a reader would type them."""

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

from vfmalign.cli.local.environment import get_small_network_settings

ROOT = Path(__file__).resolve().parents[1]
NOT_RUN = "# not run by a test: "
GATE_FAILED = 5


def read_blocks(page: str, language: str) -> list[str]:
    """Returns the fenced blocks of a language, in order."""
    text = (ROOT / "docs" / page).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
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
