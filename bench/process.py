"""The parent's side of the process in which one method runs; `worker` is the child's."""

from __future__ import annotations

import contextlib
import json
import os
import re
import selectors
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, cast

from bench.environments import HOME, ROOT, interpreter


class CallFailed(Exception):
    """A method returned no value; the message is short enough for a table."""


class MethodProcess:
    """A process that runs one method again and again.

    Args:
        name: of the method; names its log file.
        environment: whose interpreter runs it.
        call: module, function and arguments, as `worker` reads them.
        inputs: `.npy` files of the positional arguments.
        threads: of the numerical libraries, and the number of cores that the process is bound to.
        memory_bytes: limit of the process.
        start_limit_s: seconds within which it must have loaded its module and inputs.
        cuda: whether it may see a GPU.

    Raises:
        CallFailed: it did not start.
    """

    def __init__(
        self,
        name: str,
        environment: str,
        call: dict[str, Any],
        inputs: Sequence[Path],
        *,
        threads: int,
        memory_bytes: int,
        start_limit_s: float,
        cuda: bool = False,
    ) -> None:
        job = {**call, "inputs": [str(path) for path in inputs], "memory_bytes": memory_bytes}
        (HOME / "logs").mkdir(parents=True, exist_ok=True)
        self._log_path = HOME / "logs" / f"{name.replace(' ', '_').replace('/', '_')}.txt"
        self._log: IO[str] = self._log_path.open("w")
        self._child = subprocess.Popen(
            [str(interpreter(environment)), "-m", "bench.worker", json.dumps(job)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=_environment_variables(threads, cuda=cuda),
            cwd=ROOT,
            text=True,
            start_new_session=True,
        )
        self._requests, self._answers = cast("IO[str]", self._child.stdin), cast("IO[str]", self._child.stdout)
        try:
            os.sched_setaffinity(self._child.pid, sorted(os.sched_getaffinity(0))[:threads])
            self._read_answer(start_limit_s)
        except BaseException:
            self.close()
            raise

    def call(self, limit_s: float) -> dict[str, Any]:
        """Runs the method once and returns its answer.

        Raises:
            CallFailed: the process died, the method failed, or it took longer than `limit_s`.
        """
        try:
            self._requests.write("run\n")
            self._requests.flush()
        except BrokenPipeError:
            pass  # reading the answer reports how the process ended
        return self._read_answer(limit_s)

    def close(self) -> None:
        """Ends the process and every process that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._child.pid, signal.SIGKILL)
        self._child.communicate()
        self._log.close()

    def _read_answer(self, limit_s: float) -> dict[str, Any]:
        """Returns the next line that the process prints."""
        with selectors.DefaultSelector() as selector:  # `select` fails with descriptors above 1,023
            selector.register(self._answers, selectors.EVENT_READ)
            if not selector.select(limit_s):
                raise CallFailed(f"no answer within {limit_s:g} s")
        line = self._answers.readline()
        if not line:
            raise CallFailed(self._exit_reason())
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _exit_reason(self) -> str:
        """Returns the signal that ended the process, or the last error in its log."""
        code = self._child.wait()
        lines = [line.strip() for line in self._log_path.read_text(errors="replace").splitlines() if line.strip()]
        errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
        last = (errors or lines or [""])[-1][:160]
        text = "\n".join(lines)
        if any(word in text for word in ("MemoryError", "not enough memory", "can't allocate", "Unable to allocate")):
            return "not enough memory"
        return f"died by signal {-code}" if code < 0 else f"failed: {last or f'exit {code}'}"


def _environment_variables(threads: int, *, cuda: bool) -> dict[str, str]:
    """Returns the environment of a process: as many threads for every library, and this checkout's engine."""
    variables = {key: value for key, value in os.environ.items() if not key.startswith("OPENBLAS_")}
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
    variables |= dict.fromkeys(names, str(threads))
    # With `services` in the path, this checkout's engine is measured even where another one is installed.
    variables["PYTHONPATH"] = os.pathsep.join((str(ROOT), str(ROOT / "services")))
    if not cuda:
        variables["CUDA_VISIBLE_DEVICES"] = ""
    return variables
