"""The commands as processes or in this process, and what tests of them wait for."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import structlog

from vfmalign.cli import __main__ as program
from vfmalign.cli.local.state_directory import StateDirectory

TIMEOUT_S = 120.0

# A shell says 130 for both. Python dies of SIGINT itself where Ctrl-C came in the middle of a string it executes, as
# imports do (CPython's `unhandled_keyboard_interrupt`), though the command has cleaned up and returned 130.
INTERRUPTED = {130, -signal.SIGINT}


@dataclass
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


@dataclass
class Cli:
    """The commands, on one state folder.

    Attributes:
        folder: the folder in which commands run.
        popen: what starts a command as a process; one that forks saves the imports of `vfmalign`.
    """

    folder: Path
    popen: Callable[..., subprocess.Popen[str]] = subprocess.Popen

    @property
    def home(self) -> StateDirectory:
        return StateDirectory(self.folder / ".vfmalign")

    def start(self, *arguments: str, module: str = "vfmalign.cli") -> subprocess.Popen[str]:
        return self.popen(
            [sys.executable, "-m", module, *arguments],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )

    def run(self, *arguments: str, code: int | None = 0) -> Done:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=2 * TIMEOUT_S)
        assert code is None or process.returncode == code, err + out
        assert "Traceback" not in err
        return Done(process.returncode, out, err)

    def call(self, *arguments: str, code: int | None = 0) -> Done:
        with contextlib.chdir(self.folder):
            return call(*arguments, code=code)

    def service(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.call("status", "--json", code=None).document["services"][name]
        return found


@contextlib.contextmanager
def run_stack(folder: Path) -> Iterator[Cli]:
    """A stack that `vfmalign up --detach` started in a folder."""
    cli = Cli(folder)
    cli.run("up", "--detach")
    yield cli
    cli.run("down")


def call(*arguments: str, code: int | None = 0) -> Done:
    """Runs a command by the function that the program calls: starting a process takes longer than most commands."""
    out, err = io.StringIO(), io.StringIO()
    logging = structlog.get_config()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            ended = program.run(arguments)
    finally:  # the program logs warnings alone, and later tests of this process may look for more
        structlog.configure(**logging)
    done = Done(ended, out.getvalue(), err.getvalue())
    assert code is None or done.code == code, done.err + done.out
    assert "Traceback" not in done.err
    return done


def interrupt(process: subprocess.Popen[str], line: str) -> str:
    """Sends Ctrl-C to a command once it has written a line to stderr; returns what it writes afterwards."""
    assert process.stderr is not None
    with process:
        for written in process.stderr:
            if line in written:
                break
        process.send_signal(signal.SIGINT)
        err = process.stderr.read()
    assert process.returncode == 130
    return err


@contextlib.contextmanager
def suspended(process: psutil.Process) -> Iterator[None]:
    """Stops a process for the time of the block."""
    process.suspend()
    try:
        yield
    finally:
        process.resume()


def wait_until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not holds():
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.2)
