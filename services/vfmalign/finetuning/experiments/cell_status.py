"""Status of an experiment's cells. The status of a cell is derived from its check and not stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from vfmalign.client.messages.common import STATES, TERMINAL_STATES, Failure, Progress, State
from vfmalign.finetuning.checks.repository import CheckRepository, Summary
from vfmalign.finetuning.experiments.repository import StoredExperiment
from vfmalign.finetuning.experiments.request import PlannedCell

_QUEUED = Progress(phase="queued", detail="waiting to begin")
_TO_BE_RETRIED = Progress(phase="queued", detail="waiting to be retried")
_RESTORED = Progress(phase="finished", detail="its result was computed before")
_NOT_BEGUN = Progress(phase="finished", detail="the experiment ended before the check began")


@dataclass(frozen=True)
class CellStatus:
    """Status of one cell.

    Attributes:
        begun: whether the cell's check exists, belongs to this experiment and does not need a retry.
        progress: what the cell's check is doing or waiting for.
        failure: why the cell failed; None if it has not failed.
        restored: whether the cell's result existed before the experiment. A restored cell needs no check.
    """

    cell: PlannedCell
    begun: bool
    state: State
    progress: Progress
    failure: Failure | None = None
    finished_at: datetime | None = None
    restored: bool = False

    @property
    def finished(self) -> bool:
        """Whether the state is final."""
        return self.state in TERMINAL_STATES


def get_cell_statuses(experiment: StoredExperiment, checks: CheckRepository) -> tuple[CellStatus, ...]:
    """Returns the status of each cell, in the order in which the cells start."""
    cells = experiment.cells
    summaries = checks.summaries([cell.check_id for cell in cells])
    return tuple(_get_cell_status(experiment, cell, summaries.get(cell.check_id)) for cell in cells)


def count_states(cells: Sequence[CellStatus]) -> dict[State, int]:
    """Counts the cells in each state. A state without cells has the count 0."""
    counts = Counter(cell.state for cell in cells)
    return {state: counts[state] for state in STATES}


def describe_progress(cells: Sequence[CellStatus]) -> str:
    """Describes the progress of the experiment in one sentence."""
    counts = count_states(cells)
    finished = sum(counts[state] for state in TERMINAL_STATES)
    others = [f"{counts[state]} {state}" for state in ("running", "failed", "cancelled") if counts[state]]
    return ", ".join([f"{finished} of {len(cells)} checks have ended", *others])


def _get_cell_status(experiment: StoredExperiment, cell: PlannedCell, summary: Summary | None) -> CellStatus:
    if cell.check_id in experiment.restored:
        return CellStatus(cell, False, "succeeded", _RESTORED, restored=True)
    if summary is None:
        if experiment.finished:
            return CellStatus(cell, False, "cancelled", _NOT_BEGUN)
        return CellStatus(cell, False, "queued", _QUEUED)
    if summary.request_digest != cell.request_digest:
        message = f"{cell.check_id}: a check with this id exists with a different request; choose another experiment id"
        failure = Failure(reason="ALREADY_EXISTS", message=message)
        return CellStatus(
            cell, False, "failed", Progress(phase="finished", detail=message), failure, summary.finished_at
        )
    if not experiment.finished and not experiment.cancel_requested and summary.must_follow(experiment.retried_at):
        return CellStatus(cell, False, "queued", _TO_BE_RETRIED)
    return CellStatus(cell, True, summary.state, summary.progress, summary.failure, summary.finished_at)
