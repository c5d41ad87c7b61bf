"""Processes of this machine that may outlive whoever started them: known by pid and start time, stopped by group.

Knows pids and signals. Knows nothing of services.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

from vfmalign.core.domain.artifacts import Record

_SAME_START_S = 2.0
"""A process's start time moves a little with the system clock."""
_POLL_S = 0.05


class ProcessRef(Record):
    """A process that no later one with its pid can be taken for; `started` is in seconds since 1970."""

    pid: int
    started: float

    @classmethod
    def of(cls, pid: int) -> ProcessRef:
        """The process that has this pid now; one that is gone already is described as never alive."""
        try:
            return cls(pid=pid, started=psutil.Process(pid).create_time())
        except psutil.NoSuchProcess:
            return cls(pid=pid, started=0.0)

    def alive(self) -> bool:
        """Whether it runs still; a zombie does, and holds its ports, until its last thread has ended."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) < _SAME_START_S
            return same and (process.status() != psutil.STATUS_ZOMBIE or process.num_threads() > 1)
        except psutil.NoSuchProcess:
            return False

    def signal(self, number: int) -> None:
        """Signals the process where it is alive."""
        if self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill_group(self) -> None:
        """Kills the process and all others of the group that it leads."""
        if self.alive():
            with contextlib.suppress(ProcessLookupError):
                if os.getpgid(self.pid) == self.pid:
                    os.killpg(self.pid, signal.SIGKILL)
                else:
                    os.kill(self.pid, signal.SIGKILL)


def stop(processes: Sequence[ProcessRef], grace_s: float) -> list[ProcessRef]:
    """Ends processes with SIGTERM, and those that do not heed it within the grace with SIGKILL.

    Returns:
        Those that had to be killed.
    """
    for process in processes:
        process.signal(signal.SIGTERM)
    stubborn = wait_gone(processes, grace_s)
    for process in stubborn:
        process.kill_group()
    wait_gone(stubborn, grace_s)
    return stubborn


def wait_gone(processes: Sequence[ProcessRef], timeout_s: float) -> list[ProcessRef]:
    """Waits until the processes are gone; returns those that are not."""
    deadline = time.monotonic() + timeout_s
    left = list(processes)
    while (left := [process for process in left if process.alive()]) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    return left


def holders(folder: Path) -> Iterator[ProcessRef]:
    """Own processes that hold a file below a folder open (jobs hold their lock for as long as they live)."""
    prefix, me, user = f"{folder.resolve()}{os.sep}", os.getpid(), os.getuid()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid == me or process.uids().real != user:
                continue
            if any(file.path.startswith(prefix) for file in process.open_files()):
                yield ProcessRef.of(process.pid)
