"""Program of a training job that logs while its process lives.

Usage: `job.py light|real SPEC_URI`. `real` trains; `light` waits and then writes what a training writes. Each line of
the file FAULTS_LOG holds the job, the process id, `alive` or `done`, and the time of a clock that all processes share.
"""

from __future__ import annotations

import os
import random
import sys
import threading
import time

INTERVAL_S = 0.02


class Heartbeat:
    """Writes `alive` until the process ends."""

    def __init__(self, job: str) -> None:
        self._job = job
        self._file = os.open(os.environ["FAULTS_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        threading.Thread(target=self._beat, daemon=True).start()

    def write(self, event: str) -> None:
        """Appends one line in one write, which no other process can split."""
        os.write(self._file, f"{self._job} {os.getpid()} {event} {time.monotonic()}\n".encode())

    def _beat(self) -> None:
        while True:
            self.write("alive")
            time.sleep(INTERVAL_S)


def main() -> int:
    """Runs the job; returns the exit code."""
    kind, uri = sys.argv[1:]
    job = uri.split("/")[-2]
    heartbeat = Heartbeat(job)
    if kind == "real":
        from vfmalign.training.__main__ import main as train

        code = train([uri])
    else:
        from tests.integration.finetuning.peers import PROGRAM

        time.sleep(random.Random(job).uniform(0.5, 2.5))
        sys.argv = ["job", uri]
        exec(PROGRAM, {})
        code = 0
    if code == 0:
        heartbeat.write("done")
    return code


if __name__ == "__main__":
    sys.exit(main())
