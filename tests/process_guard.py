"""Processes that tests start end with the pytest process, however it ends.

Fixtures stop what they started, but no fixture runs after SIGTERM or SIGKILL. A guard process therefore waits for the
end of each pytest process, of the controller and of each worker of pytest-xdist, and kills what it left running. It
recognises these processes by a variable of their environment, which they inherit whatever session, process group or
user they have.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil

VARIABLE = "TEST_RUN_IDS"
"""Ids of the pytest process and of those that started it, separated by colons."""
POSTGRES_GRACE_S = 10.0


def start() -> subprocess.Popen[bytes]:
    """Starts a guard of this process; closing its standard input and waiting for it ends it early."""
    run_id = uuid.uuid4().hex
    guard = subprocess.Popen(
        [sys.executable, __file__, run_id],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C and signals to the process group of pytest must not end the guard
    )
    assert guard.stdin is not None
    # The end of the pipe tells the guard that this process has ended, so forked children must not hold it open.
    os.register_at_fork(after_in_child=guard.stdin.close)
    os.environ[VARIABLE] = ":".join([*filter(None, [os.environ.get(VARIABLE)]), run_id])
    return guard


def get_shared_environment() -> dict[str, str]:
    """Returns the environment for a process that all workers share, and that outlives the one that starts it."""
    run_ids = os.environ[VARIABLE].split(":")
    if "PYTEST_XDIST_WORKER" in os.environ:
        run_ids.pop()
    return {**os.environ, VARIABLE: ":".join(run_ids)}


def find_processes(run_id: str) -> Iterator[psutil.Process]:
    """Yields the running processes whose environment contains the id."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if run_id in process.environ().get(VARIABLE, "").split(":"):
                yield process


def kill_processes(run_id: str) -> None:
    """Kills the processes with the id, and those that they start meanwhile, and waits for their end.

    PostgreSQL gets SIGQUIT first, its immediate shutdown, because SIGKILL would leave its shared memory behind.
    SeaweedFS leaves its Unix sockets in /tmp. They are deleted before it is killed, as another guard may kill this one.
    """
    deadline = time.monotonic() + POSTGRES_GRACE_S
    while processes := list(find_processes(run_id)):
        for process in processes:
            with contextlib.suppress(psutil.Error):
                if process.name() == "weed":
                    delete_sockets(process)
                shut_down = process.name() == "postgres" and time.monotonic() < deadline
                process.send_signal(signal.SIGQUIT if shut_down else signal.SIGKILL)
        psutil.wait_procs(processes, timeout=1.0)


def delete_sockets(process: psutil.Process) -> None:
    """Deletes the Unix sockets in /tmp on which a process listens."""
    for connection in process.net_connections(kind="unix"):
        if connection.laddr.startswith("/tmp/seaweedfs-"):
            Path(connection.laddr).unlink(missing_ok=True)


if __name__ == "__main__":
    sys.stdin.buffer.read()
    kill_processes(sys.argv[1])
