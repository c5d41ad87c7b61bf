"""Interface between the orchestrator and the place where training processes run.

`local` runs jobs as subprocesses of this machine, `kubernetes` as Kubernetes Jobs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

from vfmalign.core.domain.errors import DONE, RETRYABLE, TERMINATED

Outcome = Literal["succeeded", "retryable", "permanent"]
Cause = Literal["exit", "platform", "limit"]

_SIGNAL_BASE = 128


@dataclass(frozen=True)
class Running:
    """The job's process is alive, or waits for resources.

    Attributes:
        handle: what the launcher needs to find it again; JSON values only. None until it is known.
        message: what it waits for and the remedy; empty while it trains.
        reason: UPPER_SNAKE_CASE constant of what it waits for; empty while it trains.
    """

    handle: dict[str, Any] | None
    message: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Exited:
    """No process of the job is alive.

    Attributes:
        exit_code: as a shell shows it (128 + signal); None where its end was not observed, as after a restart of the
            orchestrator.
        message: what the platform reports and the remedy; empty where the exit code explains everything.
        cause: `platform` where its machine was taken away, which does not count against the job; `limit` where it hit
            a limit that another attempt would hit again; otherwise `exit`, and the code decides.
    """

    exit_code: int | None
    message: str = ""
    cause: Cause = "exit"


class Launcher(Protocol):
    """Runs at most one process (or pod group) per job, whatever happens to the orchestrator.

    `attempt` counts from 1. The repository increments it before each start, so a job and an attempt identify one start.
    """

    def launch(self, job: str, attempt: int, spec_uri: str) -> Running:
        """Starts this attempt, or returns its process where it runs already.

        Raises:
            Conflict: something that belongs to another job has its name.
            Unavailable: nothing was started; the same call may succeed later.
        """

    def observe(self, job: str, attempt: int, handle: dict[str, Any] | None) -> Running | Exited:
        """Returns whether this attempt is alive; works without a handle too.

        Raises:
            Unavailable: it cannot be determined now.
        """

    def stop(self, job: str, attempt: int, handle: dict[str, Any] | None, *, force: bool) -> None:
        """Asks the attempt to checkpoint and end, or ends it at once; returns without waiting."""

    def close(self) -> None:
        """Releases the resources of the launcher; jobs continue."""


def classify(exit_code: int | None) -> Outcome:
    """Classifies an exit: succeeded, worth another attempt that resumes, or permanent.

    A process that was ended by a signal (memory, eviction, an operator) or whose end was not observed is worth another
    attempt; any other code is a failure that the same input would cause again.
    """
    if exit_code == DONE:
        return "succeeded"
    if exit_code is None or exit_code == RETRYABLE or exit_code > _SIGNAL_BASE:
        return "retryable"
    return "permanent"


def describe(exit_code: int | None) -> str:
    """Describes an exit whose process stored no failure."""
    if exit_code is None:
        return "the training process ended unobserved and stored no result"
    if exit_code == TERMINATED:
        return "the training process was asked to stop and checkpointed"
    if exit_code > _SIGNAL_BASE:
        return f"the training process was killed by signal {exit_code - _SIGNAL_BASE}"
    if exit_code == DONE:
        return "the training process ended without writing its result"
    return f"the training process ended with exit code {exit_code}"
