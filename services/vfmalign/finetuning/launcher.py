"""How a training process is started, watched and stopped: the seam between the orchestrator and where jobs run.

Knows the exit codes of a job (design §6) and what a launcher must offer. Knows nothing of subprocesses, clusters or
databases; `local` runs jobs as subprocesses on this machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

Outcome = Literal["succeeded", "retryable", "permanent"]

EXIT_DONE = 0
EXIT_BAD_SPEC = 2
EXIT_BAD_DATA = 3
EXIT_RETRYABLE = 75
EXIT_CHECKPOINTED = 143
_SIGNAL_BASE = 128


@dataclass(frozen=True)
class Running:
    """The job's process is alive.

    Attributes:
        handle: what the launcher needs to find it again; JSON values only. None until it is known.
    """

    handle: dict[str, Any] | None


@dataclass(frozen=True)
class Exited:
    """No process of the job is alive.

    Attributes:
        exit_code: as a shell shows it (128 + signal); None where nobody saw it, as after a restart of ours.
    """

    exit_code: int | None


class Launcher(Protocol):
    """Runs at most one process (or pod) per job, whatever happens to the orchestrator."""

    def launch(self, job: str, spec_uri: str) -> Running:
        """Starts the job's process, or returns the one that runs already."""

    def observe(self, job: str, handle: dict[str, Any] | None) -> Running | Exited:
        """Looks whether a process of the job is alive; finds it without a handle too."""

    def stop(self, job: str, handle: dict[str, Any] | None, *, force: bool) -> None:
        """Asks the job to checkpoint and end, or kills all its processes at once; returns without waiting."""


def classify(exit_code: int | None) -> Outcome:
    """What an exit means: done, worth another attempt with resume, or hopeless.

    A process ended by a signal (memory, eviction, an operator) and an exit that nobody saw are worth another attempt;
    any other code is a fault that the same input would meet again.
    """
    if exit_code == EXIT_DONE:
        return "succeeded"
    if exit_code is None or exit_code == EXIT_RETRYABLE or exit_code > _SIGNAL_BASE:
        return "retryable"
    return "permanent"


def describe(exit_code: int | None) -> str:
    """A short sentence for an exit whose process left no words of its own."""
    if exit_code is None:
        return "the training process ended unseen and left no result"
    if exit_code == EXIT_CHECKPOINTED:
        return "the training process was asked to stop and checkpointed"
    if exit_code > _SIGNAL_BASE:
        return f"the training process was killed by signal {exit_code - _SIGNAL_BASE}"
    if exit_code == EXIT_DONE:
        return "the training process ended without writing its result"
    return f"the training process ended with exit code {exit_code}"
