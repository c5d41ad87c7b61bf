"""The finetuning service as a fork of a process that has imported it.

A start of `python -m vfmalign.finetuning` spends two seconds of CPU time on imports, and one more on those of its first
report. The fork is a process like any other: it has its own id and environment, can be killed, and ends with an exit
code. The tests of the command line and of the whole system start the service as users do.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

from vfmalign.finetuning.__main__ import main

FORKS = multiprocessing.get_context("forkserver")
# Reports import the modules of scipy and matplotlib, and the first connection the dialect.
FORKS.set_forkserver_preload([__name__, "scipy.stats", "matplotlib.backends.backend_svg", "sqlalchemy.dialects.sqlite"])


class Service:
    """A running service, with the methods of `subprocess.Popen` that the tests use."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        # The end of pytest terminates daemons, where a failed test has left one.
        self._process = FORKS.Process(target=_run, args=(environment, log), daemon=True)
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """Returns the exit code, negative for a signal, or None while the process runs."""
        return self._process.exitcode

    def wait(self, timeout_s: float | None = None) -> int:
        """Waits for the end of the process and returns its exit code."""
        self._process.join(timeout_s)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("vfmalign.finetuning", timeout_s or 0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Sends a signal to a process that runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Sends SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Sends SIGKILL."""
        self.send_signal(signal.SIGKILL)


def _run(environment: dict[str, str], log: Path) -> None:
    os.environ.clear()
    os.environ.update(environment)
    with log.open("ab") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    sys.exit(main([]))
