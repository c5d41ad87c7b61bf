"""Interface between the orchestrator and the place where training processes run.

`local` runs jobs as subprocesses of this machine, `kubernetes` as Kubernetes Jobs.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from vfmalign.core.domain.errors import DONE, PROCESS_LOST, RETRYABLE, STORE_UNAVAILABLE, TERMINATED

Outcome = Literal["succeeded", "retryable", "interrupted", "unavailable", "permanent"]
Cause = Literal["exit", "platform", "memory", "limit"]
Handle = dict[str, Any]
"""JSON values that a launcher needs to find an attempt again."""

_SIGNAL_BASE = 128
# Signals that are sent from outside. The process itself causes other signals, such as a segmentation fault.
_EXTERNAL_SIGNALS = frozenset({signal.SIGHUP, signal.SIGINT, signal.SIGKILL, signal.SIGTERM})
_BY_CAUSE: dict[Cause, Outcome] = {"platform": "interrupted", "memory": "retryable", "limit": "permanent"}
_BY_CODE: dict[int | None, Outcome] = {
    None: "interrupted",
    DONE: "succeeded",
    RETRYABLE: "retryable",
    STORE_UNAVAILABLE: "unavailable",
    PROCESS_LOST: "interrupted",
}
_DESCRIPTIONS = {
    None: "the training process ended unobserved and stored no result",
    DONE: "the training process ended without writing its result",
    RETRYABLE: "the training process failed, for example because its device has too little memory",
    STORE_UNAVAILABLE: "the training process could not use the object store",
    PROCESS_LOST: "a training process lost another process of the job, or never met it",
    TERMINATED: "the training process was asked to stop and checkpointed",
}

Confirm = Callable[[], None]
"""Function that raises LeaseLost if this orchestrator is no longer the leader."""


def lead_always() -> None:
    """A `Confirm` that never raises. Use this function only if no other orchestrator can exist."""


@dataclass(frozen=True)
class Origin:
    """Origin of a job: ids that help to find the processes of the job on the platform.

    Attributes:
        check: id of the check that created the job; empty for a job without a check.
        network: network that the job fine-tunes; empty for pretraining.
        request_id: id of the request that created the job; empty if unknown.
        tenant: tenant of the job; empty if unknown.
    """

    check: str = ""
    network: str = ""
    request_id: str = ""
    tenant: str = ""


UNKNOWN_ORIGIN = Origin()


@dataclass(frozen=True)
class Running:
    """State of an attempt whose process is alive or waits for resources.

    Attributes:
        handle: None until it is known.
        message: why the attempt waits, and the remedy; empty while the attempt trains.
        reason: why the attempt waits, as an UPPER_SNAKE_CASE constant; empty while the attempt trains.
        started: whether all processes of the attempt have started; None if this is currently unknown.
    """

    handle: Handle | None
    message: str = ""
    reason: str = ""
    started: bool | None = True


@dataclass(frozen=True)
class Exited:
    """State of an attempt without a living process.

    Attributes:
        exit_code: exit code as in a shell (128 + signal). None if the end was not observed, for example because the
            orchestrator restarted.
        message: what the platform reported, and the remedy; empty if the exit code is sufficient.
        cause: `platform` if the machine of the attempt was removed. `memory` if the platform reports that the attempt
            exceeded its memory limit. `limit` if another attempt would reach the same limit again. `exit` if only the
            exit code shows the cause.
    """

    exit_code: int | None
    message: str = ""
    cause: Cause = "exit"


class Launcher(Protocol):
    """Runs at most one process (or group of pods) per job, even if the orchestrator is killed.

    `attempt` counts from 1. The repository increments `attempt` before each start. A job and an attempt therefore
    identify one start.
    """

    def launch(
        self,
        job: str,
        attempt: int,
        spec_uri: str,
        confirm: Confirm = lead_always,
        *,
        origin: Origin = UNKNOWN_ORIGIN,
    ) -> Running:
        """Starts this attempt. If the attempt already runs, returns its process.

        Args:
            job: name of the job, unique across tenants.
            attempt: number of the attempt.
            spec_uri: argument of the process.
            confirm: function to call after all orchestrators can see this attempt and before its process runs. If the
                function raises an error, no process is started.
            origin: origin of the job, for platforms that have labels.

        Raises:
            LeaseLost: this orchestrator is no longer the leader.
            Conflict: the name is taken by an object of another job.
            Unavailable: no process was started. The same call may succeed later.
        """

    def observe(self, job: str, attempt: int, handle: Handle | None) -> Running | Exited:
        """Returns the state of this attempt. Does not need a handle.

        Raises:
            Unavailable: the state is currently unknown.
        """

    def stop(self, job: str, attempt: int, handle: Handle | None, *, force: bool) -> None:
        """Asks the attempt to write a checkpoint and end, or kills it. Does not wait until it ends."""

    def log_command(self, job: str, attempt: int) -> str:
        """Returns the shell command that shows the log of an attempt. Does not check whether the log exists."""

    def close(self) -> None:
        """Releases the resources of the launcher. Its jobs continue to run."""


def classify(exit_code: int | None, cause: Cause = "exit") -> Outcome:
    """Classifies the end of an attempt that left neither result nor failure.

    Returns:
        `succeeded`. `retryable`: a failure of the training that may not happen again, such as a crash or too little
        memory. Such a failure counts against the job. `interrupted`: a signal, the machine or another process of the
        job ended the attempt, or nobody observed its end. `unavailable`: the object store could not be used.
        `permanent`: a failure that the same input would cause again.
    """
    if cause != "exit":
        return _BY_CAUSE[cause]
    if exit_code is not None and exit_code > _SIGNAL_BASE:
        return "interrupted" if exit_code - _SIGNAL_BASE in _EXTERNAL_SIGNALS else "retryable"
    return _BY_CODE.get(exit_code, "permanent")


def describe(exit_code: int | None) -> str:
    """Describes the exit of a process that stored no failure."""
    if exit_code is None or exit_code in _DESCRIPTIONS:
        return _DESCRIPTIONS[exit_code]
    if exit_code > _SIGNAL_BASE:
        return f"the training process was killed by signal {exit_code - _SIGNAL_BASE}"
    return f"the training process ended with exit code {exit_code}"
