"""Commands that bring a stack of their own end it when they are told to, and leave no process."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from tests.integration.cli.commands import INTERRUPTED, TIMEOUT_S, Cli, wait_until

from vfmalign.cli.local.state_directory import StateDirectory

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.usefixtures("process_as_before")  # commands in this process configure its log


def test_a_foreground_stack_ends_with_ctrl_c_and_leaves_no_process(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    process = cli.start("up")
    wait_until(lambda: process.poll() is not None or cli.home.read().ready, "the stack")
    running = cli.home.read().list_processes()
    assert len(running) == 5
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=TIMEOUT_S)
    # 130 where Ctrl-C came between the last service's readiness and the stack's own word that it serves.
    assert process.returncode in {0, *INTERRUPTED}
    assert "stopped" in err
    assert not any(ref.alive() for ref in running)
    assert cli.call("status", "--json", code=3).document["running"] is False
    assert "nothing was running" in cli.call("down").out


@pytest.mark.parametrize(
    ("module", "arguments", "folder", "words"),
    [
        ("vfmalign.cli", ("demo",), "demo", "the demo was interrupted; its stack is stopped"),
        ("bench.evidence", (), "rehearsal", "run the same command again to resume"),
    ],
)
def test_a_demo_or_rehearsal_that_is_told_to_end_leaves_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, arguments: tuple[str, ...], folder: str, words: str
) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    cli, home = Cli(tmp_path), StateDirectory(tmp_path / ".vfmalign" / folder)
    process = cli.start(*arguments, module=module)
    wait_until(lambda: process.poll() is not None or home.read().ready, "the stack")
    running = home.read().list_processes()
    assert len(running) == 5
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode in INTERRUPTED, err
    assert words in err
    assert "Traceback" not in err
    assert not any(ref.alive() for ref in running)
    assert home.s3.is_dir(), "what was made so far is kept"
