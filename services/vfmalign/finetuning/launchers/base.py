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
EventReason = Literal["Started", "Checkpointed", "Succeeded", "Failed", "Retried", "Cancelled"]
Cause = Literal["exit", "platform", "memory", "limit"]
Handle = dict[str, Any]
"""What a launcher needs to find an attempt again, as JSON values."""

_SIGNAL_BASE = 128
# Sent from outside. Other signals are raised by the process's own instructions, as in a segmentation fault.
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
"""Raises where this orchestrator no longer leads."""


def lead_always() -> None:
    """The `Confirm` of a process that has no rival."""


@dataclass(frozen=True)
class Origin:
    """Where a job comes from, by which platforms find its processes; ids only.

    Attributes:
        check: the check it belongs to; empty for a job of its own.
        network: the network that it fine-tunes; empty for pretraining.
        request_id: the request that created it; empty where unknown.
        tenant: whose job it is; empty where unknown.
    """

    check: str = ""
    network: str = ""
    request_id: str = ""
    tenant: str = ""


UNKNOWN_ORIGIN = Origin()


@dataclass(frozen=True)
class JobEvent:
    """What happened to an attempt, for people who watch the platform.

    Attributes:
        reason: constant; an attempt has one event of each, whose count may grow.
        message: one sentence.
        warning: whether somebody may have to act.
        count: how often it has happened so far; of all attempts, for checkpoints.
    """

    reason: EventReason
    message: str
    warning: bool = False
    count: int = 1


@dataclass(frozen=True)
class Running:
    """The job's process is alive, or waits for resources.

    Attributes:
        handle: None until it is known.
        message: what it waits for and the remedy; empty while it trains.
        reason: UPPER_SNAKE_CASE constant of what it waits for; empty while it trains.
        started: whether all of its processes have started; None where that cannot be determined now.
    """

    handle: Handle | None
    message: str = ""
    reason: str = ""
    started: bool | None = True


@dataclass(frozen=True)
class Exited:
    """No process of the job is alive.

    Attributes:
        exit_code: as a shell shows it (128 + signal); None where its end was not observed, as after a restart of the
            orchestrator.
        message: what the platform reports and the remedy; empty where the exit code explains everything.
        cause: `platform` where its machine was taken away; `memory` where the platform reports that it exceeded its
            memory; `limit` where it hit a limit that another attempt would hit again; otherwise `exit`, and the code
            decides.
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
        """Starts this attempt, or returns its process where it runs already.

        Args:
            job: name of the job, unique among those of all tenants.
            attempt: number of the attempt.
            spec_uri: argument of the process.
            confirm: called once every orchestrator can see this attempt, and before its process runs. Where it raises,
                no process is started.
            origin: where the job comes from; for platforms with labels.

        Raises:
            LeaseLost: this orchestrator no longer leads.
            Conflict: something that belongs to another job has its name.
            Unavailable: nothing was started; the same call may succeed later.
        """

    def observe(self, job: str, attempt: int, handle: Handle | None) -> Running | Exited:
        """Returns whether this attempt is alive; works without a handle too.

        Raises:
            Unavailable: it cannot be determined now.
        """

    def stop(self, job: str, attempt: int, handle: Handle | None, *, force: bool) -> None:
        """Asks the attempt to checkpoint and end, or ends it at once; returns without waiting."""

    def log_command(self, job: str, attempt: int) -> str:
        """Returns the shell command that shows the log of an attempt; does not check that the log exists."""

    def announce(self, job: str, attempt: int, event: JobEvent) -> None:
        """Tells the platform what happened to an attempt; never raises, never waits, and may leave an event out."""

    def close(self) -> None:
        """Releases the resources of the launcher; jobs continue."""


def classify(exit_code: int | None, cause: Cause = "exit") -> Outcome:
    """Classifies the end of an attempt that left neither result nor failure.

    Returns:
        `succeeded`; `retryable`, a failure of the training itself that another attempt may not meet again (a crash, too
        little memory), which counts against the job; `interrupted`, an end that came from outside (a signal, the
        machine, another process of the job) or was not observed; `unavailable`, where the object store could not be
        used; `permanent`, a failure that the same input would cause again.
    """
    if cause != "exit":
        return _BY_CAUSE[cause]
    if exit_code is not None and exit_code > _SIGNAL_BASE:
        return "interrupted" if exit_code - _SIGNAL_BASE in _EXTERNAL_SIGNALS else "retryable"
    return _BY_CODE.get(exit_code, "permanent")


def describe(exit_code: int | None) -> str:
    """Describes an exit whose process stored no failure."""
    if exit_code is None or exit_code in _DESCRIPTIONS:
        return _DESCRIPTIONS[exit_code]
    if exit_code > _SIGNAL_BASE:
        return f"the training process was killed by signal {exit_code - _SIGNAL_BASE}"
    return f"the training process ended with exit code {exit_code}"
