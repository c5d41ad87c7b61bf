"""Runs methods in processes of their own and takes turns among them: A B C, C B A, ...

Every method has one fresh process with the same number of threads. Its first call is the warm-up and is not counted;
a method whose warm-up is slow is not run again, and its figure says so. Turns are interleaved, so that a machine that
drifts hits all alike, and a ratio is formed within one turn.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

from bench import machine
from bench.environments import HOME, ROOT, interpreter, why_absent


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Attributes:
        repeats: counted turns of every method.
        threads: of every process, which is bound to as many cores.
        peers: names to take; empty for all. Ours are always there.
        slow: whether to run the methods that are marked slow.
        warmup_limit_s: a method whose first call takes longer is not called again.
        call_limit_s: a call that takes longer is ended, and reported so.
        memory_bytes: of one process; 0 for what the machine has left.
        disturbed: share of the machine that others may use during a call before it is repeated.
        retries: how often a disturbed call is repeated.
        cuda: whether the processes may see a GPU.
    """

    repeats: int = 5
    threads: int = field(default_factory=lambda: os.cpu_count() or 1)
    peers: tuple[str, ...] = ()
    slow: bool = False
    warmup_limit_s: float = 20.0
    call_limit_s: float = 300.0
    memory_bytes: int = 0
    disturbed: float = 0.1
    retries: int = 5
    cuda: bool = False


@dataclass(frozen=True)
class Method:
    """One way to compute something: a function in `bench/peers/<module>.py`, run by an environment's interpreter.

    Attributes:
        name: as printed, unique within a case.
        package: what must be installed.
        statistic: `biased`, `unbiased_independent`, `unbiased_paired`, or what else its value is.
        note: printed beside the figures.
        slow: left out unless asked for.
    """

    name: str
    environment: str
    module: str
    function: str
    package: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)
    statistic: str = "unbiased_independent"
    note: str = ""
    slow: bool = False


@dataclass
class Result:
    """What one method gave; `failure` says why it gave nothing."""

    method: Method
    turns: list[dict[str, Any]] = field(default_factory=list)
    warmed_up: bool = True
    failure: str = ""

    @property
    def seconds(self) -> list[float]:
        """Of the counted calls."""
        return [float(turn["seconds"]) for turn in self.turns]

    @property
    def last(self) -> dict[str, Any]:
        """The last call's whole answer."""
        return self.turns[-1]

    @property
    def above_inputs_bytes(self) -> int | None:
        """The most memory any call needed above the inputs."""
        return max((int(turn["above_inputs_bytes"]) for turn in self.turns), default=None)


@dataclass(frozen=True)
class Spread:
    """Median, smallest and largest of some figures."""

    median: float
    low: float
    high: float


def spread(figures: Sequence[float]) -> Spread:
    """Median with its spread."""
    return Spread(statistics.median(figures), min(figures), max(figures))


def ratio(numerator: Result, denominator: Result) -> Spread | None:
    """Times of one against those of the other, turn by turn; None where either has none."""
    if not numerator.turns or not denominator.turns:
        return None
    if len(numerator.turns) != len(denominator.turns):  # one of them was called once only
        once = len(numerator.turns) == 1
        one = numerator.seconds[0] if once else statistics.median(numerator.seconds)
        other = statistics.median(denominator.seconds)
        return spread([one / other])
    return spread([a / b for a, b in zip(numerator.seconds, denominator.seconds, strict=True)])


def compare(methods: Sequence[Method], inputs: Sequence[Path], settings: Settings) -> list[Result]:
    """Runs the methods on the same inputs, in turns.

    Args:
        methods: in the order of the table.
        inputs: `.npy` files, handed to every function in this order.
        settings: how to measure.
    """
    results = [Result(method) for method in methods]
    running: list[tuple[Result, Process]] = []
    try:
        for result in results:
            process = _started(result, inputs, settings)
            _say(result, "warm-up")
            if process is not None:
                running.append((result, process))
        for turn in range(settings.repeats):
            for result, process in running if turn % 2 == 0 else reversed(running):
                if result.warmed_up and not result.failure:
                    _add_turn(result, process, settings)
                    _say(result, f"turn {turn + 1}")
    finally:
        for _, process in running:
            process.close()
    return results


def _say(result: Result, what: str) -> None:
    """Progress, for who waits."""
    told = result.failure or (f"{result.last['seconds']:.3g} s" if result.turns else "done")
    print(f"  {result.method.name}, {what}: {told}", file=sys.stderr, flush=True)


def _started(result: Result, inputs: Sequence[Path], settings: Settings) -> Process | None:
    """The method's process after its warm-up; None where there is nothing more to run."""
    method = result.method
    reason = why_absent(method.environment, method.package)
    if reason is None and method.slow and not settings.slow:
        reason = "slow: run with --slow"
    if reason:
        result.failure = reason
        return None
    try:
        process = Process(method, inputs, settings)
    except CallFailed as error:
        result.failure = str(error)
        return None
    try:
        before = machine.busy_seconds()
        first = process.call(settings.call_limit_s)
        first["others"] = _others(first, before)
    except CallFailed as error:
        result.failure = str(error)
        process.close()
        return None
    if first["seconds"] > settings.warmup_limit_s or settings.repeats == 0:
        result.turns, result.warmed_up = [first], False
        process.close()
        return None
    return process


def _add_turn(result: Result, process: Process, settings: Settings) -> None:
    """One counted call, repeated while others used the machine; the last try is kept and says how much they did."""
    for _ in range(settings.retries + 1):
        before = machine.busy_seconds()
        try:
            answer = process.call(settings.call_limit_s)
        except CallFailed as error:
            result.failure = str(error)
            return
        answer["others"] = _others(answer, before)
        if answer["others"] <= settings.disturbed:
            break
    result.turns.append(answer)


def _others(answer: dict[str, Any], busy_before: float) -> float:
    """Share of the machine that everything else used during a call."""
    busy = machine.busy_seconds() - busy_before
    return max(0.0, busy - float(answer["cpu_seconds"])) / (float(answer["seconds"]) * (os.cpu_count() or 1))


class CallFailed(Exception):
    """A method gave no value; says why in words for the table."""


class Process:
    """One method's process."""

    def __init__(self, method: Method, inputs: Sequence[Path], settings: Settings) -> None:
        threads = str(settings.threads)
        environment = {key: value for key, value in os.environ.items() if not key.startswith("OPENBLAS_")}
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
        # `services` makes it this checkout's engine that is measured, even where another one is installed.
        paths = os.pathsep.join((str(ROOT), str(ROOT / "services")))
        environment |= dict.fromkeys(names, threads) | {"PYTHONPATH": paths}
        if not settings.cuda:
            environment["CUDA_VISIBLE_DEVICES"] = ""
        job = {
            "module": method.module,
            "function": method.function,
            "inputs": [str(path) for path in inputs],
            "arguments": method.arguments,
            "memory_bytes": settings.memory_bytes or int(0.9 * machine.available_bytes()),
        }
        (HOME / "logs").mkdir(parents=True, exist_ok=True)
        self._log_path = HOME / "logs" / f"{method.name.replace(' ', '_').replace('/', '_')}.txt"
        self._log: IO[str] = self._log_path.open("w")
        cores = sorted(os.sched_getaffinity(0))[: settings.threads]
        self._child = subprocess.Popen(
            [str(interpreter(method.environment)), "-m", "bench.worker", json.dumps(job)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
            cwd=ROOT,
            text=True,
            start_new_session=True,
        )
        self._requests, self._answers = cast("IO[str]", self._child.stdin), cast("IO[str]", self._child.stdout)
        try:
            os.sched_setaffinity(self._child.pid, cores)
            self._answer(settings.call_limit_s)
        except BaseException:
            self.close()
            raise

    def call(self, limit_s: float) -> dict[str, Any]:
        """Runs the method once.

        Raises:
            CallFailed: it died, failed or took too long.
        """
        try:
            self._requests.write("run\n")
            self._requests.flush()
        except BrokenPipeError:
            pass  # how it ended is read below
        return self._answer(limit_s)

    def close(self) -> None:
        """Ends the process and what it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._child.pid, signal.SIGKILL)
        self._child.communicate()
        self._log.close()

    def _answer(self, limit_s: float) -> dict[str, Any]:
        """The next line that the process prints."""
        ready, _, _ = select.select([self._answers], [], [], limit_s)
        if not ready:
            raise CallFailed(f"no answer within {limit_s:g} s")
        line = self._answers.readline()
        if not line:
            raise CallFailed(self._why_it_died())
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _why_it_died(self) -> str:
        """The signal, or the last line of its log."""
        code = self._child.wait()
        lines = [line.strip() for line in self._log_path.read_text(errors="replace").splitlines() if line.strip()]
        named = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
        last = (named or lines or [""])[-1][:160]
        text = "\n".join(lines)
        if any(word in text for word in ("MemoryError", "not enough memory", "can't allocate", "Unable to allocate")):
            return "not enough memory"
        return f"died by signal {-code}" if code < 0 else f"failed: {last or f'exit {code}'}"
