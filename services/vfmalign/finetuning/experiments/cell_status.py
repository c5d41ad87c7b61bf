"""Where each cell of an experiment stands, which is where its check stands.

Knows experiments, cells and the book of checks. Keeps nothing: a cell has no state of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from vfmalign.finetuning.checks.repository import Brief, CheckRepository
from vfmalign.finetuning.experiments.repository import Experiment
from vfmalign.finetuning.experiments.request import ExperimentCell
from vfmalign.finetuning.jobs.repository import STATES, TERMINAL, State


@dataclass(frozen=True)
class Standing:
    """One cell as it stands.

    Attributes:
        begun: whether its check exists and is this experiment's.
        message: one sentence on what it is doing or waiting for, or why it failed.
        reason: UPPER_SNAKE_CASE reason of a failure, else empty.
    """

    cell: ExperimentCell
    begun: bool
    state: State
    message: str
    reason: str = ""
    finished_at: datetime | None = None

    @property
    def ended(self) -> bool:
        """Whether no state can follow."""
        return self.state in TERMINAL


def standings(experiment: Experiment, checks: CheckRepository) -> tuple[Standing, ...]:
    """Every cell in the order in which they are begun."""
    cells = experiment.cells
    briefs = checks.briefs([cell.check_id for cell in cells])
    return tuple(_standing(experiment, cell, briefs.get(cell.check_id)) for cell in cells)


def counts(found: Sequence[Standing]) -> dict[State, int]:
    """Cells per state, zeros included."""
    number = Counter(standing.state for standing in found)
    return {state: number[state] for state in STATES}


def sentence(found: Sequence[Standing]) -> str:
    """How far the experiment is."""
    number = counts(found)
    ended = sum(number[state] for state in TERMINAL)
    more = [f"{number[state]} {state.lower()}" for state in ("RUNNING", "FAILED", "CANCELLED") if number[state]]
    return ", ".join([f"{ended} of {len(found)} checks have ended", *more])


def _standing(experiment: Experiment, cell: ExperimentCell, brief: Brief | None) -> Standing:
    if brief is None:
        if experiment.finished:
            return Standing(cell, False, "CANCELLED", "was not begun before the experiment ended")
        return Standing(cell, False, "QUEUED", "waiting for its turn")
    if brief.request_digest != cell.request_digest:
        return Standing(
            cell,
            False,
            "FAILED",
            f"{cell.check_id}: a check of this id was created with another body; give the experiment another id",
            "ALREADY_EXISTS",
            brief.finished_at,
        )
    return Standing(cell, True, brief.state, brief.message, brief.reason, brief.finished_at)
