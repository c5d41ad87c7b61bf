"""Logs of the local stack are bounded, and the processes that write them notice nothing."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from vfmalign.cli.local import stack
from vfmalign.cli.local.log_rotation import rotate


def test_a_process_continues_in_the_emptied_file(tmp_path: Path) -> None:
    log, small = tmp_path / "features.log", tmp_path / "mmd.log"
    small.write_text("short\n")
    program = "import sys\nfor line in sys.stdin: print(line.strip() * 100, flush=True)"
    with log.open("ab") as out:
        process = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=out, text=True)
    assert process.stdin is not None
    process.stdin.write("a\n")
    process.stdin.flush()
    while log.stat().st_size < 101:
        time.sleep(0.01)
    rotate([tmp_path, tmp_path / "absent"], max_bytes=100)
    assert log.stat().st_size == 0
    process.communicate("b\n")
    assert log.read_text() == "b" * 100 + "\n"
    assert (tmp_path / "features.log.1").read_text() == "a" * 100 + "\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["features.log", "features.log.1", "mmd.log"]


def test_a_stack_rotates_logs_of_processes_and_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = {name: tmp_path / name for name in ("logs", "job_logs", "s3")}
    rotated: list[Path] = []
    monkeypatch.setattr(stack, "rotate", rotated.extend)
    running = stack.Stack(SimpleNamespace(**folders), print)
    running.reconcile()
    running.reconcile()
    assert rotated == list(folders.values()), "once per period"
