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
"""Data with which a launcher finds an attempt again, as JSON values."""

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
"""Raises LeaseLost if this orchestrator no longer leads."""


def lead_always() -> None:
    """A `Confirm` for a process without competitors: it never raises."""


@dataclass(frozen=True)
class Origin:
    """Origin of a job: ids by which the processes of the job can be found on the platform.

    Attributes:
        check: the check that created the job; empty for a job without a check.
        network: the network that it fine-tunes; empty for pretraining.
        request_id: the request that created it; empty where unknown.
        tenant: the tenant of the job; empty where unknown.
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
        message: the cause of waiting and the remedy; empty while the attempt trains.
        reason: UPPER_SNAKE_CASE constant for the cause of waiting; empty while the attempt trains.
        started: whether all of its processes have started; None if this cannot be determined now.
    """

    handle: Handle | None
    message: str = ""
    reason: str = ""
    started: bool | None = True


@dataclass(frozen=True)
class Exited:
    """State of an attempt without a living process.

    Attributes:
        exit_code: as in a shell (128 + signal); None if the end was not observed, for example because the orchestrator
            restarted.
        message: the platform's report and the remedy; empty if the exit code is sufficient.
        cause: `platform` if its machine was removed; `memory` if the platform reports that it exceeded its memory;
            `limit` if another attempt would reach the same limit again; `exit` if only the exit code shows the cause.
    """

    exit_code: int | None
    message: str = ""
    cause: Cause = "exit"


class Launcher(Protocol):
    """Runs at most one process (or pod group) per job, whatever happens to the orchestrator.

    `attempt` counts from 1. The repository increments it before each start, so a job and an attempt identify one start.
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
        """Starts this attempt, or returns its process if it runs already.

        Args:
            job: name of the job, unique across tenants.
            attempt: number of the attempt.
            spec_uri: argument of the process.
            confirm: called when all orchestrators can see this attempt, before its process runs. If it raises, no
                process is started.
            origin: where the job comes from; for platforms with labels.

        Raises:
            LeaseLost: this orchestrator no longer leads.
            Conflict: the name is taken by an object of another job.
            Unavailable: nothing was started; the same call may succeed later.
        """

    def observe(self, job: str, attempt: int, handle: Handle | None) -> Running | Exited:
        """Returns whether this attempt is alive; works without a handle too.

        Raises:
            Unavailable: this cannot be determined now.
        """

    def stop(self, job: str, attempt: int, handle: Handle | None, *, force: bool) -> None:
        """Asks the attempt to write a checkpoint and end, or kills it; returns without waiting."""

    def log_command(self, job: str, attempt: int) -> str:
        """Returns the shell command that shows the log of an attempt; does not check that the log exists."""

    def close(self) -> None:
        """Releases the resources of the launcher; jobs continue."""


def classify(exit_code: int | None, cause: Cause = "exit") -> Outcome:
    """Classifies the end of an attempt that left neither result nor failure.

    Returns:
        `succeeded`; `retryable`, a failure of the training that may not recur (a crash, too little memory) and counts
        against the job; `interrupted`, an end caused from outside (a signal, the machine, another process of the job)
        or not observed; `unavailable`, if the object store could not be used; `permanent`, a failure that the same
        input would cause again.
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
