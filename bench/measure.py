"""Measure methods in turns: A B C, C B A, ...

Every method runs in one fresh process with the same number of threads. Its first call is a warm-up that is not counted;
a method whose warm-up is slow is not called again, and the table marks its figure. Turns are interleaved, so that a
machine whose speed drifts affects all methods alike, and ratios are formed within a turn.
"""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import machine
from bench.environments import absent_reason
from bench.process import CallFailed, MethodProcess


@dataclass(frozen=True)
class MeasurementSettings:
    """How to measure.

    Attributes:
        repeats: counted turns of every method.
        threads: of every process, which is bound to as many cores.
        competitors: names of the competitors to measure; empty for all. vfmalign is always measured.
        slow: whether to run the methods that are marked slow.
        warmup_limit_s: a method whose first call takes longer is not called again.
        call_limit_s: a call that takes longer is ended and reported as failed.
        memory_bytes: limit of one process; 0 for what the machine has available.
        disturbed: share of the machine that others may use during a call before the call is repeated.
        retries: how often a disturbed call is repeated.
        cuda: whether the processes may see a GPU.
    """

    repeats: int = 5
    threads: int = field(default_factory=lambda: os.cpu_count() or 1)
    competitors: tuple[str, ...] = ()
    slow: bool = False
    warmup_limit_s: float = 20.0
    call_limit_s: float = 300.0
    memory_bytes: int = 0
    disturbed: float = 0.1
    retries: int = 5
    cuda: bool = False


@dataclass(frozen=True)
class Method:
    """One way to compute something: a function that an environment's interpreter runs.

    Attributes:
        name: as printed, unique within a case.
        environment: name of the virtual environment, or `environments.VFMALIGN`.
        module: of the function, relative to `bench`: `competitors.…` or `workloads.…`.
        function: its name in the module.
        package: that must be installed.
        arguments: keyword arguments of the function.
        statistic: `biased`, `unbiased_independent`, `unbiased_paired`, or what else its value is.
        note: printed beside the figures.
        slow: whether it runs with `--slow` only.
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
    """Measurements of one method.

    Attributes:
        method: the method.
        turns: the answer of each counted call.
        warmed_up: whether calls were counted after a warm-up.
        failure: why there are no measurements; empty where there are.
    """

    method: Method
    turns: list[dict[str, Any]] = field(default_factory=list)
    warmed_up: bool = True
    failure: str = ""

    @property
    def seconds(self) -> list[float]:
        """Durations of the counted calls."""
        return [float(turn["seconds"]) for turn in self.turns]

    @property
    def last(self) -> dict[str, Any]:
        """Answer of the last call."""
        return self.turns[-1]

    @property
    def above_inputs_bytes(self) -> int | None:
        """Peak memory above the inputs over all calls."""
        return max((int(turn["above_inputs_bytes"]) for turn in self.turns), default=None)


@dataclass(frozen=True)
class MedianRange:
    """Median, smallest and largest of some figures."""

    median: float
    low: float
    high: float


def median_range(figures: Sequence[float]) -> MedianRange:
    """Returns the median of some figures with their range."""
    return MedianRange(statistics.median(figures), min(figures), max(figures))


def ratio(numerator: Result, denominator: Result) -> MedianRange | None:
    """Divides the times of one method by those of another, turn by turn; None where either has none."""
    if not numerator.turns or not denominator.turns:
        return None
    if len(numerator.turns) != len(denominator.turns):  # one of them was called once only
        once = len(numerator.turns) == 1
        numerator_s = numerator.seconds[0] if once else statistics.median(numerator.seconds)
        return median_range([numerator_s / statistics.median(denominator.seconds)])
    return median_range([a / b for a, b in zip(numerator.seconds, denominator.seconds, strict=True)])


def compare(methods: Sequence[Method], inputs: Sequence[Path], settings: MeasurementSettings) -> list[Result]:
    """Runs methods on the same inputs, in turns.

    Args:
        methods: in the order of the table.
        inputs: `.npy` files whose arrays are the positional arguments of every function.
        settings: how to measure.

    Returns:
        One result per method; a method that fails has none of its turns but the reason, and the others continue.
    """
    results = [Result(method) for method in methods]
    running: list[tuple[Result, MethodProcess]] = []
    try:
        for result in results:
            process = _warm_up(result, inputs, settings)
            _print_progress(result, "warm-up")
            if process is not None:
                running.append((result, process))
        for turn in range(settings.repeats):
            for result, process in running if turn % 2 == 0 else reversed(running):
                if result.warmed_up and not result.failure:
                    _add_turn(result, process, settings)
                    _print_progress(result, f"turn {turn + 1}")
    finally:
        for _, process in running:
            process.close()
    return results


def _print_progress(result: Result, step: str) -> None:
    """Prints what a call gave to standard error."""
    outcome = result.failure or (f"{result.last['seconds']:.3g} s" if result.turns else "done")
    print(f"  {result.method.name}, {step}: {outcome}", file=sys.stderr, flush=True)


def _warm_up(result: Result, inputs: Sequence[Path], settings: MeasurementSettings) -> MethodProcess | None:
    """Starts a method's process and calls it once; returns None where it is not to be called again."""
    method = result.method
    reason = absent_reason(method.environment, method.package)
    if reason is None and method.slow and not settings.slow:
        reason = "slow: run with --slow"
    if reason:
        result.failure = reason
        return None
    try:
        process = MethodProcess(
            method.name,
            method.environment,
            {"module": method.module, "function": method.function, "arguments": method.arguments},
            inputs,
            threads=settings.threads,
            memory_bytes=settings.memory_bytes or int(0.9 * machine.available_bytes()),
            start_limit_s=settings.call_limit_s,
            cuda=settings.cuda,
        )
    except CallFailed as error:
        result.failure = str(error)
        return None
    try:
        before = machine.busy_seconds()
        answer = process.call(settings.call_limit_s)
        answer["others"] = _others_share(answer, before)
    except CallFailed as error:
        result.failure = str(error)
        process.close()
        return None
    if answer["seconds"] > settings.warmup_limit_s or settings.repeats == 0:
        result.turns, result.warmed_up = [answer], False
        process.close()
        return None
    return process


def _add_turn(result: Result, process: MethodProcess, settings: MeasurementSettings) -> None:
    """Adds one counted call, repeated while others use the machine; the last try counts, with the share of others."""
    for _ in range(settings.retries + 1):
        before = machine.busy_seconds()
        try:
            answer = process.call(settings.call_limit_s)
        except CallFailed as error:
            result.failure = str(error)
            return
        answer["others"] = _others_share(answer, before)
        if answer["others"] <= settings.disturbed:
            break
    result.turns.append(answer)


def _others_share(answer: dict[str, Any], busy_before: float) -> float:
    """Returns the share of the machine that all other processes used during a call."""
    busy = machine.busy_seconds() - busy_before
    return max(0.0, busy - float(answer["cpu_seconds"])) / (float(answer["seconds"]) * (os.cpu_count() or 1))
