"""Repository of experiments: requests, pinned inputs and states. The states of the cells are those of their checks."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from vfmalign.client.messages.common import Progress
from vfmalign.core.domain.artifacts import Record
from vfmalign.finetuning.db.database import ExperimentRow, now
from vfmalign.finetuning.db.repository import LifecycleRepository, Operation, StoredRef, common_fields
from vfmalign.finetuning.experiments.request import ExperimentCell, ExperimentRequest, Fixed, expand


class ExperimentRefs(Record):
    """The stored report of a finished experiment."""

    json_ref: StoredRef
    html_ref: StoredRef
    csv_ref: StoredRef


@dataclass(frozen=True)
class Experiment(Operation):
    """An experiment with its current state.

    Attributes:
        fixed: digests of the inputs of its checks.
        report: set when it succeeded.
    """

    request: ExperimentRequest
    fixed: Fixed
    report: ExperimentRefs | None

    @property
    def cells(self) -> tuple[ExperimentCell, ...]:
        """Its cells in the order in which they are begun."""
        return expand(self.id, self.request, self.fixed)


class ExperimentRepository(LifecycleRepository[ExperimentRow, Experiment]):
    """All experiments of a database."""

    table = ExperimentRow
    noun = "experiment"
    list_rpc = "ListExperiments"
    stopping = "cancelling: waiting for its checks to end"

    def create(self, experiment_id: str, request: ExperimentRequest, fixed: Fixed) -> Experiment:
        """Adds an experiment; the same id and request again returns the first, with the inputs pinned then.

        Raises:
            Conflict: the id was used with another request.
        """
        row = ExperimentRow(id=experiment_id, fixed=fixed.model_dump(mode="json"))
        return self._insert(row, request, "waiting to begin")

    def active(self) -> tuple[Experiment, ...]:
        """Returns experiments that are not finished, oldest first."""
        return self._select(
            sa.select(ExperimentRow)
            .where(ExperimentRow.state.in_(("running", "queued")))
            .order_by(ExperimentRow.created_at, ExperimentRow.id)
        )

    def begin(self, experiment_id: str) -> Experiment:
        """Moves a queued experiment to running."""
        with self._database.session() as session:
            row = self._row(session, experiment_id)
            if row.state == "queued":
                row.state, row.started_at = "running", now()
                self._set_progress(row, Progress(phase="starting", detail="starting"))
            return self._to_item(row)

    def succeed(self, experiment_id: str, report: ExperimentRefs, detail: str) -> None:
        """Ends an experiment whose report is stored, unless it was cancelled meanwhile."""
        with self._database.session() as session:
            row = self._row(session, experiment_id)
            if row.finished_at is None:
                row.report = report.model_dump(mode="json")
                self._end(session, row, "succeeded", detail)

    def _to_item(self, row: ExperimentRow) -> Experiment:
        return Experiment(
            **common_fields(row),
            request=ExperimentRequest.model_validate(row.request),
            fixed=Fixed.model_validate(row.fixed),
            report=None if row.report is None else ExperimentRefs.model_validate(row.report),
        )
