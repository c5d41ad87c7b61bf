"""Status of an experiment's cells. A cell has no state of its own: its status is derived from its check."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from vfmalign.client.messages.common import STATES, TERMINAL_STATES, State
from vfmalign.finetuning.checks.repository import CheckRepository, Summary
from vfmalign.finetuning.experiments.repository import Experiment
from vfmalign.finetuning.experiments.request import ExperimentCell


@dataclass(frozen=True)
class CellStatus:
    """Status of one cell.

    Attributes:
        begun: whether its check exists and belongs to this experiment.
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
    def finished(self) -> bool:
        """Whether the state is final."""
        return self.state in TERMINAL_STATES


def get_cell_statuses(experiment: Experiment, checks: CheckRepository) -> tuple[CellStatus, ...]:
    """Returns the status of every cell, in the order in which cells begin."""
    cells = experiment.cells
    summaries = checks.summaries([cell.check_id for cell in cells])
    return tuple(_get_cell_status(experiment, cell, summaries.get(cell.check_id)) for cell in cells)


def count_states(cells: Sequence[CellStatus]) -> dict[State, int]:
    """Counts the cells in each state, including states without cells."""
    counts = Counter(cell.state for cell in cells)
    return {state: counts[state] for state in STATES}


def describe_progress(cells: Sequence[CellStatus]) -> str:
    """Describes the progress of the experiment in one sentence."""
    counts = count_states(cells)
    finished = sum(counts[state] for state in TERMINAL_STATES)
    others = [f"{counts[state]} {state}" for state in ("running", "failed", "cancelled") if counts[state]]
    return ", ".join([f"{finished} of {len(cells)} checks have ended", *others])


def _get_cell_status(experiment: Experiment, cell: ExperimentCell, summary: Summary | None) -> CellStatus:
    if summary is None:
        if experiment.finished:
            return CellStatus(cell, False, "cancelled", "the experiment ended before the check began")
        return CellStatus(cell, False, "queued", "waiting to begin")
    if summary.request_digest != cell.request_digest:
        return CellStatus(
            cell,
            False,
            "failed",
            f"{cell.check_id}: a check of this id was created with another body; give the experiment another id",
            "ALREADY_EXISTS",
            summary.finished_at,
        )
    reason = summary.failure.reason if summary.failure is not None else ""
    return CellStatus(cell, True, summary.state, summary.progress.detail, reason, summary.finished_at)
