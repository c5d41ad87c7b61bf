"""Messages that several services share (`common.proto`), and the states of jobs, checks and experiments."""

from __future__ import annotations

from typing import get_args

from vfmalign.client.messages.generated.alignment import CheckState
from vfmalign.client.messages.generated.common import *
from vfmalign.client.messages.generated.finetuning import Failure as Failure
from vfmalign.client.messages.generated.finetuning import JobState as JobState

State = CheckState
"""State of a check; that of an experiment has the same values."""
STATES: tuple[State, ...] = get_args(State)
JOB_STATES: tuple[JobState, ...] = get_args(JobState)
TERMINAL_STATES: frozenset[State] = frozenset({"succeeded", "failed", "cancelled"})
"""States that no other state follows."""


def absent(reason: str) -> Estimate:
    """Returns an estimate without value or interval."""
    return Estimate(absent_reason=reason)
