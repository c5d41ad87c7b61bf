"""Python interpreters that have imported torch, monai and the modules of vfmalign, shared by all workers of a test run.

The start of a training process or a service spends three to five seconds of CPU time on imports. `PreloadedPython` runs
`python -m MODULE …` or `python -c CODE …` in a fork of a server that has them. The fork is a process like any other: it
has its own id, session and environment, can be killed, and ends with an exit code. At least one test of every program
starts it as users do.

Variables that are read on import have no effect in a fork. `OMP_NUM_THREADS` is 1.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CLIENT = Path(__file__).with_name("forked_python.py")
MODULES = (
    "torch._dynamo",  # imported by the first optimiser
    "matplotlib.backends.backend_svg",
    "scipy.stats",
    "vfmalign.training.job",
    "vfmalign.training.launch",
    "vfmalign.features.servicer",
    "vfmalign.mmd.service.servicer",
    "vfmalign.core.rpc.server",
    "vfmalign.finetuning.checks.servicer",
    "vfmalign.finetuning.experiments.servicer",
    "vfmalign.finetuning.jobs.servicer",
    "vfmalign.finetuning.orchestrator",
    "vfmalign.monitoring.service.leader",
    "vfmalign.monitoring.service.servicer",
    "sqlalchemy.dialects.postgresql.psycopg",
    "sqlalchemy.dialects.sqlite",
    "vfmalign.cli.commands.api.dataset",
    "vfmalign.cli.commands.api.drift",
    "vfmalign.cli.commands.api.models",
    "vfmalign.cli.commands.api.monitors",
    "vfmalign.cli.commands.api.watch",
    "vfmalign.cli.commands.setup.stack",
)
START_TIMEOUT_S = 120.0
_NUMBER = struct.Struct("i")
_REQUEST_BYTES = 1 << 17


class PreloadedPython(subprocess.Popen):
    """`subprocess.Popen` of a Python interpreter that is a fork of the server at a socket.

    Replaces what `Popen` does with the operating system: the fork, and the wait for the end of a child.
    """

    def __init__(self, server: Path, args: Sequence[str], **options: Any) -> None:
        self._connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._connection.connect(str(server))
        super().__init__(args, **options)

    def _execute_child(self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, *options):
        _, _, _, *pipes = options[:9]
        stdin, _, _, stdout, _, stderr = pipes
        files = [file if file != -1 else standard for standard, file in enumerate((stdin, stdout, stderr))]
        request = [list(args)[1:], str(cwd or Path.cwd()), dict(os.environ if env is None else env)]
        socket.send_fds(self._connection, [json.dumps(request).encode()], files)
        (self.pid,) = _NUMBER.unpack(self._connection.recv(_NUMBER.size))
        self._child_created = True
        self._close_pipe_fds(*pipes)

    def _try_wait(self, wait_flags):
        try:
            status = self._connection.recv(_NUMBER.size, socket.MSG_DONTWAIT if wait_flags & os.WNOHANG else 0)
        except BlockingIOError:
            return 0, 0
        self._connection.close()
        return self.pid, _NUMBER.unpack(status)[0] if status else signal.SIGKILL

    def _internal_poll(self, _deadstate=None):
        return super()._internal_poll(_deadstate, lambda _, flags: self._try_wait(flags))


def get_command(server: Path, program: Sequence[str]) -> list[str]:
    """Returns the command line that runs a program, such as `-m MODULE …`, in a fork of the server at a socket.

    For programs that start others by a command. `forked_python.py` stands for the fork.
    """
    return [sys.executable, "-I", "-S", str(CLIENT), str(server), *program]


def start_server(folder: Path) -> Path:
    """Starts the server of a test run, unless another worker has, and returns its socket.

    Args:
        folder: a folder that all workers share.
    """
    from tests.process_guard import get_shared_environment  # this file is a program as well, which cannot import it

    path = folder / "python.sock"
    with (folder / "python.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            environment = get_shared_environment() | {"OMP_NUM_THREADS": "1"}
            with (folder / "python.log").open("w") as log:
                files = [(os.POSIX_SPAWN_DUP2, log.fileno(), 1), (os.POSIX_SPAWN_DUP2, log.fileno(), 2)]
                command = [sys.executable, __file__, str(path)]
                os.posix_spawn(sys.executable, command, environment, file_actions=files, setsid=True)
            deadline = time.monotonic() + START_TIMEOUT_S
            while not path.exists():
                assert time.monotonic() < deadline, (folder / "python.log").read_text()
                time.sleep(0.05)
    return path


def serve(path: Path) -> None:
    """Forks for every connection."""
    gc.disable()
    for module in MODULES:
        importlib.import_module(module)
    gc.freeze()
    gc.enable()
    sys.path[0] = str(ROOT)
    server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    unfinished = path.with_suffix(".new")
    server.bind(str(unfinished))
    server.listen(64)
    unfinished.rename(path)
    children: list[int] = []
    while True:
        connection, _ = server.accept()
        if (pid := os.fork()) == 0:
            server.close()
            attend(connection)
        connection.close()
        children = [pid, *(child for child in children if os.waitpid(child, os.WNOHANG)[0] == 0)]


def attend(connection: socket.socket) -> None:
    """Forks the interpreter, reports its end, and kills it where the process that started it ends earlier."""
    data, files, *_ = socket.recv_fds(connection, _REQUEST_BYTES, 3)
    arguments, folder, environment = json.loads(data)
    pid = os.fork()
    if pid == 0:
        connection.close()
        interpret(arguments, folder, environment, files)
    for file in files:
        os.close(file)
    connection.send(_NUMBER.pack(pid))
    end = os.pidfd_open(pid)
    with selectors.DefaultSelector() as selector:  # takes descriptors of any number, where `select` ends at 1,023
        selector.register(connection, selectors.EVENT_READ)
        selector.register(end, selectors.EVENT_READ)
        ready = {key.fd for key, _ in selector.select()}
    if end not in ready:
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    with contextlib.suppress(OSError):  # nobody waits for it
        connection.send(_NUMBER.pack(status))
    os._exit(0)


def interpret(arguments: list[str], folder: str, environment: dict[str, str], files: list[int]) -> None:
    """Does what `python ARGUMENTS` does, and ends the process."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored where the tests run in the background
    for standard, file in enumerate(files):
        os.dup2(file, standard)
        os.close(file)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    code: Any = 0
    try:
        option, program, *sys.argv[1:] = arguments
        if option == "-m":
            runpy.run_module(program, run_name="__main__", alter_sys=True)
        else:
            sys.argv[0] = option
            exec(compile(program, "<string>", "exec"), {"__name__": "__main__"})
    except SystemExit as error:
        code = error.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
