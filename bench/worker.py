"""The process in which one method runs: loads the inputs, then runs the method once per line on its standard input.

`process` starts it with the method's own interpreter, so it imports nothing but numpy and the method's module. Every
answer is one line of JSON. Anything that the method itself prints goes to the log.
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
    """Reads the job from the command line, reports readiness, and answers until standard input ends."""
    job: dict[str, Any] = json.loads(sys.argv[1])
    # Answers keep the original standard output; file descriptor 1 becomes the log, also for native code.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    if job["memory_bytes"]:
        # A method that needs more than the machine has fails alone, before the kernel chooses a process to kill.
        resource.setrlimit(resource.RLIMIT_DATA, (job["memory_bytes"], job["memory_bytes"]))
    function = getattr(importlib.import_module(f"bench.{job['module']}"), job["function"])
    arrays = [np.load(path, allow_pickle=False) for path in job["inputs"]]
    reset_peak()
    before = resident_bytes()
    print(json.dumps({"ready": True, "resident_bytes": before}), file=answers)
    for _ in sys.stdin:
        times_before, start = os.times(), time.perf_counter()
        value = function(*arrays, **job["arguments"])
        seconds, times = time.perf_counter() - start, os.times()
        answer = {
            "seconds": seconds,
            "cpu_seconds": times.user + times.system - times_before.user - times_before.system,
            "above_inputs_bytes": max(0, peak_bytes() - before),
            **(value if isinstance(value, dict) else {"value": float(value)}),
        }
        print(json.dumps(answer), file=answers)


def reset_peak() -> None:
    """Resets the peak of memory in use, so that reading the inputs does not count."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        pass  # the peak then includes the imports, and the figure is an upper bound


def resident_bytes() -> int:
    """Returns the memory in use now."""
    return _status("VmRSS") or peak_bytes()


def peak_bytes() -> int:
    """Returns the largest memory in use since `reset_peak`."""
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _status(name: str) -> int:
    """Returns one field of /proc/self/status in bytes; 0 where it is missing."""
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
