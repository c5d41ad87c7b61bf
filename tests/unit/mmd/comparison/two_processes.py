"""Two processes that share one comparison, started with the variables that a Job or torchrun sets."""

import os
import socket
import subprocess
import sys


def compare(start, arguments, environment=os.environ):
    """Runs `python -m vfmalign.mmd.comparison` in two processes and returns the output of each.

    Args:
        start: starts a process, like `subprocess.Popen`.
        arguments: arguments of the program.
        environment: variables of the processes.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {**environment, "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    command = [sys.executable, "-m", "vfmalign.mmd.comparison", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [start(command, env=shared | {"RANK": rank, "OMP_NUM_THREADS": "1"}, **pipes) for rank in ("0", "1")]
    outputs = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    return [out for out, _ in outputs]
