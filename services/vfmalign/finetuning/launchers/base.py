"""How a training process is started, watched and stopped: the seam between the orchestrator and where jobs run.

Knows the exit codes of a job (design §6) and what a launcher must offer. Knows nothing of subprocesses, clusters or
databases: `local` runs jobs as subprocesses of this machine, `cluster` as Kubernetes Jobs.
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
    """The job's process is alive, or waits for a place.

    Attributes:
        handle: what the launcher needs to find it again; JSON values only. None until it is known.
        message: what it waits for and what to do about it; empty while it trains.
    """

    handle: dict[str, Any] | None
    message: str = ""


@dataclass(frozen=True)
class Exited:
    """No process of the job is alive.

    Attributes:
        exit_code: as a shell shows it (128 + signal); None where nobody saw it, as after a restart of ours.
        message: what the platform says of its end and what to do about it; empty where the code says all.
        cause: `platform` where its machine was taken away, which does not count against the job; `limit` where it ran
            into a limit that another attempt would meet again; otherwise `exit`, and the code decides.
    """

    exit_code: int | None
    message: str = ""
    cause: Cause = "exit"


class Launcher(Protocol):
    """Runs at most one process (or pod group) per job, whatever happens to the orchestrator.

    `attempt` counts from 1; the book raises it before each start, so a job and its attempt name one start for ever.
    """

    def launch(self, job: str, attempt: int, spec_uri: str) -> Running:
        """Starts this attempt, or returns what runs of it already.

        Raises:
            Conflict: something that is not this job's lies where it would be.
            Unavailable: nothing was started; the same call may succeed later.
        """

    def observe(self, job: str, attempt: int, handle: dict[str, Any] | None) -> Running | Exited:
        """Looks whether this attempt is alive; finds it without a handle too.

        Raises:
            Unavailable: it cannot be known now.
        """

    def stop(self, job: str, attempt: int, handle: dict[str, Any] | None, *, force: bool) -> None:
        """Asks the attempt to checkpoint and end, or ends it at once; returns without waiting."""

    def close(self) -> None:
        """Lets go of what the launcher itself holds; jobs go on."""


def classify(exit_code: int | None) -> Outcome:
    """What an exit means: done, worth another attempt with resume, or hopeless.

    A process ended by a signal (memory, eviction, an operator) and an exit that nobody saw are worth another attempt;
    any other code is a fault that the same input would meet again.
    """
    if exit_code == DONE:
        return "succeeded"
    if exit_code is None or exit_code == RETRYABLE or exit_code > _SIGNAL_BASE:
        return "retryable"
    return "permanent"


def describe(exit_code: int | None) -> str:
    """A short sentence for an exit whose process left no words of its own."""
    if exit_code is None:
        return "the training process ended unseen and left no result"
    if exit_code == TERMINATED:
        return "the training process was asked to stop and checkpointed"
    if exit_code > _SIGNAL_BASE:
        return f"the training process was killed by signal {exit_code - _SIGNAL_BASE}"
    if exit_code == DONE:
        return "the training process ended without writing its result"
    return f"the training process ended with exit code {exit_code}"
