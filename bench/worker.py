"""The process in which one method runs: loads the inputs, then runs once per line on its standard input.

Started by `measure` with the peer's own interpreter; it imports nothing but numpy and the peer's module. Every answer
is one line of JSON. What the peer itself prints goes to the log.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import time
from typing import Any

import numpy as np


def main() -> None:
    """Reads the job from the command line, says that it is ready, and answers until its input ends."""
    job: dict[str, Any] = json.loads(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    if job["memory_bytes"]:
        # A peer that asks for more than the machine has should fail alone, not by the kernel's choice of a victim.
        resource.setrlimit(resource.RLIMIT_DATA, (job["memory_bytes"], job["memory_bytes"]))
    function = getattr(importlib.import_module(f"bench.peers.{job['module']}"), job["function"])
    arrays = [np.load(path, allow_pickle=False) for path in job["inputs"]]
    forget_peak()
    before = resident_bytes()
    print(json.dumps({"ready": True, "resident_bytes": before}), file=answers)
    for _ in sys.stdin:
        busy, start = os.times(), time.perf_counter()
        value = function(*arrays, **job["arguments"])
        seconds, now = time.perf_counter() - start, os.times()
        answer = {
            "seconds": seconds,
            "cpu_seconds": now.user + now.system - busy.user - busy.system,
            "above_inputs_bytes": max(0, peak_bytes() - before),
            **(value if isinstance(value, dict) else {"value": float(value)}),
        }
        print(json.dumps(answer), file=answers)


def forget_peak() -> None:
    """Starts the peak anew, so that what reading the inputs took is not counted."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        pass  # then the peak includes the imports, which only makes it larger


def resident_bytes() -> int:
    """Memory in use now."""
    return _status("VmRSS") or peak_bytes()


def peak_bytes() -> int:
    """The most memory in use since `forget_peak`."""
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _status(name: str) -> int:
    """One field of /proc/self/status in bytes; 0 where there is none."""
    try:
        with open("/proc/self/status") as file:
            for line in file:
                if line.startswith(f"{name}:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


if __name__ == "__main__":
    main()
