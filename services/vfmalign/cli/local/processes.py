"""References to processes on this machine. A process may outlive the process that started it."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

from vfmalign.core.domain.record import Record

_START_TIME_TOLERANCE_S = 2.0
_POLL_S = 0.05


class ProcessRef(Record):
    """A process, identified by its pid and its start time, so that a reused pid is detected.

    The start time is in seconds since the system booted. Seconds since 1970 would change with the clock, for example
    after a pause of a virtual machine.
    """

    pid: int
    started: float

    @classmethod
    def from_pid(cls, pid: int) -> ProcessRef:
        """Returns the process with this pid. If the process has already ended, it is never reported as alive."""
        try:
            return cls(pid=pid, started=_get_start_s(psutil.Process(pid)))
        except psutil.NoSuchProcess:
            return cls(pid=pid, started=0.0)

    def alive(self) -> bool:
        """Returns whether the process runs.

        A zombie with running threads counts as alive, because it still occupies its ports.
        """
        try:
            process = psutil.Process(self.pid)
            same = abs(_get_start_s(process) - self.started) < _START_TIME_TOLERANCE_S
            return same and (process.status() != psutil.STATUS_ZOMBIE or process.num_threads() > 1)
        except psutil.NoSuchProcess:
            return False

    def signal(self, number: int) -> None:
        """Sends a signal to the process if it is alive."""
        if self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill_group(self) -> None:
        """Kills the process and, if it leads a process group, the whole group."""
        if self.alive():
            with contextlib.suppress(ProcessLookupError):
                if os.getpgid(self.pid) == self.pid:
                    os.killpg(self.pid, signal.SIGKILL)
                else:
                    os.kill(self.pid, signal.SIGKILL)


def stop(processes: Sequence[ProcessRef], grace_s: float) -> list[ProcessRef]:
    """Sends SIGTERM to the processes. After the grace period, sends SIGKILL to the processes that still run.

    Returns:
        The processes that had to be killed.
    """
    for process in processes:
        process.signal(signal.SIGTERM)
    killed = wait_for_exit(processes, grace_s)
    for process in killed:
        process.kill_group()
    wait_for_exit(killed, grace_s)
    return killed


def wait_for_exit(processes: Sequence[ProcessRef], timeout_s: float) -> list[ProcessRef]:
    """Waits until the processes have ended. Returns the processes that still run after the timeout."""
    deadline = time.monotonic() + timeout_s
    running = list(processes)
    while (running := [process for process in running if process.alive()]) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    return running


def find_processes_with_open_files(folder: Path) -> Iterator[ProcessRef]:
    """Yields other processes of the user that have a file below a folder open.

    For example, jobs keep their lock file open.
    """
    prefix, own_pid, user = f"{folder.resolve()}{os.sep}", os.getpid(), os.getuid()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid == own_pid or process.uids().real != user:
                continue
            if any(file.path.startswith(prefix) for file in process.open_files()):
                yield ProcessRef.from_pid(process.pid)


def _get_start_s(process: psutil.Process) -> float:
    return float(process.create_time() - psutil.boot_time())
