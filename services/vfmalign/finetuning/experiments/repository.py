"""Repository of experiments: requests, pinned inputs and states. The state of a cell is the state of its check."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from vfmalign.client.messages.common import Progress, State
from vfmalign.client.messages.experiments import ExperimentSpec
from vfmalign.core.domain.record import Record
from vfmalign.core.domain.stored_objects import StoredFile
from vfmalign.database.tables import now
from vfmalign.finetuning.checks.tables import CheckRow
from vfmalign.finetuning.experiments.request import PinnedInputs, PlannedCell, plan_cells
from vfmalign.finetuning.experiments.tables import ExperimentRow
from vfmalign.finetuning.lifecycle import LifecycleRepository
from vfmalign.finetuning.operation import Operation, common_fields


class ExperimentRefs(Record):
    """The stored report of a finished experiment."""

    json_ref: StoredFile
    html_ref: StoredFile
    csv_ref: StoredFile


@dataclass(frozen=True)
class StoredExperiment(Operation):
    """An experiment as stored in the database.

    Attributes:
        state: never `pending`.
        spec: the request, with defaults filled in.
        pinned: digests of the inputs of the experiment's checks.
        restored: ids of checks that need not run. The results of their cells existed before the experiment.
        report: the report; None unless the experiment succeeded.
    """

    state: State
    spec: ExperimentSpec
    pinned: PinnedInputs
    restored: frozenset[str]
    report: ExperimentRefs | None

    @property
    def cells(self) -> tuple[PlannedCell, ...]:
        """Cells of the experiment, in the order in which they start."""
        return plan_cells(self.id, self.spec, self.pinned)


class ExperimentRepository(LifecycleRepository[ExperimentRow, StoredExperiment]):
    """All experiments of a tenant."""

    table = ExperimentRow
    noun = "experiment"
    stopping = "cancelling: waiting for its checks to end"

    def create(self, experiment_id: str, spec: ExperimentSpec, pinned: PinnedInputs) -> StoredExperiment:
        """Adds an experiment.

        If an experiment with the same id and spec exists, returns that experiment with its pinned inputs.

        Raises:
            Conflict: the id is taken by an experiment with a different request.
        """
        row = ExperimentRow(id=experiment_id, pinned_inputs=pinned.model_dump(mode="json"))
        return self._insert(row, spec, "waiting to begin")

    def active(self) -> tuple[StoredExperiment, ...]:
        """Returns experiments that are not finished, oldest first."""
        return self._select(
            sa.select(ExperimentRow)
            .where(ExperimentRow.state.in_(("running", "queued")))
            .order_by(ExperimentRow.created_at, ExperimentRow.id)
        )

    def begin(self, experiment_id: str) -> StoredExperiment:
        """Moves a queued experiment to running."""
        with self._database.session() as session:
            row = self._row(session, experiment_id)
            if row.state == "queued":
                row.state, row.started_at = "running", row.started_at or now()
                self._set_progress(row, Progress(phase="starting", detail="starting"))
            return self._to_item(row)

    def restore_cell(self, experiment_id: str, check_id: str) -> None:
        """Records that the result of a cell exists, so that its check need not run."""
        with self._database.session() as session:
            row = self._row(session, experiment_id)
            row.restored_cells = sorted({*row.restored_cells, check_id})

    def forget_cell(self, experiment_id: str, check_id: str) -> None:
        """Records that the result of a restored cell was lost, so that its check runs."""
        with self._database.session() as session:
            row = self._row(session, experiment_id)
            row.restored_cells = [cell for cell in row.restored_cells if cell != check_id]

    def succeed(self, experiment_id: str, report: ExperimentRefs, detail: str) -> None:
        """Marks an experiment as finished after its report was stored, unless it has been cancelled."""
        with self._database.session() as session:
            row = self._row(session, experiment_id)
            if row.finished_at is None:
                row.report = report.model_dump(mode="json")
                self._end(session, row, "succeeded", detail)

    def _may_retry(self, session: Session, row: ExperimentRow) -> bool:
        """Allows the retry of a report that lacks cells because their checks failed. A complete report stays."""
        if row.state != "succeeded":
            return True
        ids = [cell.check_id for cell in self._to_item(row).cells if cell.check_id not in row.restored_cells]
        in_report = (CheckRow.state == "succeeded") & (CheckRow.finished_at <= row.finished_at)
        query = sa.select(sa.func.count()).select_from(CheckRow).where(CheckRow.id.in_(ids) & in_report)
        return session.scalar(query) != len(ids)

    def _erase(self, session: Session, row: ExperimentRow) -> None:
        row.report = None

    def _reset(self, row: ExperimentRow) -> None:
        row.report = None

    def _to_item(self, row: ExperimentRow) -> StoredExperiment:
        return to_experiment(row)


def to_experiment(row: ExperimentRow) -> StoredExperiment:
    """Converts a row."""
    return StoredExperiment(
        **common_fields(row),
        spec=ExperimentSpec.model_validate(row.request),
        pinned=PinnedInputs.model_validate(row.pinned_inputs),
        restored=frozenset(row.restored_cells),
        report=None if row.report is None else ExperimentRefs.model_validate(row.report),
    )
