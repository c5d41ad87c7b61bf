"""Run a Python program in a fork of a preloaded interpreter: `python -IS forked_python.py SOCKET -m MODULE …`.

This process stands for the fork: it has its streams, passes signals on, ends as it ends, and takes it along when it is
killed, because the server kills the fork whose connection closes.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import sys
from pathlib import Path

PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)


def main() -> None:
    """Runs the program and ends as it does."""
    # A signal that comes before the handlers waits for them: it may answer to what the program has written already.
    signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)
    server, *arguments = sys.argv[1:]
    # As it was given to this process: Python itself may add LC_CTYPE.
    entries = Path("/proc/self/environ").read_text().split("\0")
    environment = dict(entry.split("=", 1) for entry in entries if entry)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.connect(server)
    socket.send_fds(connection, [json.dumps([arguments, str(Path.cwd()), environment]).encode()], [0, 1, 2])
    number = struct.Struct("i")
    (pid,) = number.unpack(connection.recv(number.size))
    for passed_on in PASSED_ON:
        signal.signal(passed_on, lambda received, _: os.kill(pid, received))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
    status = connection.recv(number.size)
    code = os.waitstatus_to_exitcode(number.unpack(status)[0]) if status else -signal.SIGKILL
    if code < 0:
        if -code in PASSED_ON:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


if __name__ == "__main__":
    main()
