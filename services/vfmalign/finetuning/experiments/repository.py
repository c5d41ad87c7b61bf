"""The book of experiments: what was asked, what was fixed, and what state each is in.

Knows the states and which may follow which. Knows nothing of cells' states, which are those of their checks, of S3 or
of gRPC: see `runner`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from vfmalign.core.domain.artifacts import Record
from vfmalign.core.domain.errors import Conflict, NotFound
from vfmalign.finetuning.db.database import Database, ExperimentRow, now
from vfmalign.finetuning.db.pagination import Page, PageRequest, read_page
from vfmalign.finetuning.experiments.request import ExperimentCell, ExperimentRequest, Fixed, expand
from vfmalign.finetuning.jobs.repository import TERMINAL, State, StoredRef


class ExperimentRefs(Record):
    """Where a finished experiment's report lies."""

    json_ref: StoredRef
    html_ref: StoredRef
    csv_ref: StoredRef


@dataclass(frozen=True)
class Experiment:
    """An experiment as it stands.

    Attributes:
        fixed: digests of what its checks are about.
        message: one sentence on what it is doing or waiting for; for FAILED the reason in words.
        reason: UPPER_SNAKE_CASE reason of a failure, else empty.
        report: set when it succeeded.
    """

    id: str
    request: ExperimentRequest
    fixed: Fixed
    state: State
    message: str
    reason: str
    cancel_requested: bool
    report: ExperimentRefs | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @property
    def finished(self) -> bool:
        """Whether no state can follow."""
        return self.state in TERMINAL

    @property
    def cells(self) -> tuple[ExperimentCell, ...]:
        """Its cells in the order in which they are begun."""
        return expand(self.id, self.request, self.fixed)


class ExperimentRepository:
    """All experiments of a database. Every method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, experiment_id: str, request: ExperimentRequest) -> Experiment | None:
        """The experiment of this id if it was asked for with the same request, None if there is none.

        Raises:
            Conflict: there is one, asked for with another body.
        """
        with self._database.session() as session:
            row = session.get(ExperimentRow, experiment_id)
            return None if row is None else _same(row, request)

    def create(self, experiment_id: str, request: ExperimentRequest, fixed: Fixed) -> Experiment:
        """Adds an experiment; the same id and request again returns the first, with what was fixed then.

        Raises:
            Conflict: the id exists with another request.
        """
        row = ExperimentRow(
            id=experiment_id, request_digest=request.digest(), request=request.model_dump(mode="json"),
            fixed=fixed.model_dump(mode="json"), state="QUEUED", message="waiting to begin", created_at=now(),
        )  # fmt: skip
        try:
            with self._database.session() as session:
                session.add(row)
        except IntegrityError:
            with self._database.session() as session:
                return _same(session.get_one(ExperimentRow, experiment_id), request)
        return _experiment(row)

    def get(self, experiment_id: str) -> Experiment:
        """One experiment.

        Raises:
            NotFound: no experiment has this id.
        """
        with self._database.session() as session:
            return _experiment(_row(session, experiment_id))

    def list(self, request: PageRequest) -> Page[Experiment]:
        """One page of experiments, newest first."""
        with self._database.session() as session:
            return read_page(session, ExperimentRow, request, _experiment)

    def active(self) -> tuple[Experiment, ...]:
        """Experiments that are not finished, oldest first."""
        query = (
            sa.select(ExperimentRow)
            .where(ExperimentRow.state.in_(("RUNNING", "QUEUED")))
            .order_by(ExperimentRow.created_at, ExperimentRow.id)
        )
        with self._database.session() as session:
            return tuple(_experiment(row) for row in session.scalars(query))

    def cancel(self, experiment_id: str) -> Experiment:
        """Cancel: a queued experiment ends at once, a running one when its checks have ended, a finished one stays."""
        with self._database.session() as session:
            row = _row(session, experiment_id)
            if row.state == "QUEUED":
                _finish(row, "CANCELLED", "cancelled before it began")
            elif row.state == "RUNNING" and not row.cancel_requested:
                row.cancel_requested = True
                row.message = "cancelling: waiting for its checks to end"
            return _experiment(row)

    def begin(self, experiment_id: str) -> Experiment:
        """The experiment is being worked on from now."""
        with self._database.session() as session:
            row = _row(session, experiment_id)
            if row.state == "QUEUED":
                row.state, row.message, row.started_at = "RUNNING", "beginning", now()
            return _experiment(row)

    def say(self, experiment_id: str, message: str) -> None:
        """Writes down what the experiment is doing or waiting for; one that ends keeps its last words."""
        with self._database.session() as session:
            row = _row(session, experiment_id)
            if row.state == "RUNNING" and not row.cancel_requested:
                row.message = message

    def succeed(self, experiment_id: str, report: ExperimentRefs, message: str) -> None:
        """The report is stored."""
        with self._database.session() as session:
            row = _row(session, experiment_id)
            if row.state not in TERMINAL:
                row.report = report.model_dump(mode="json")
                _finish(row, "SUCCEEDED", message)

    def fail(self, experiment_id: str, message: str, reason: str) -> None:
        """The experiment cannot be finished."""
        with self._database.session() as session:
            _finish(_row(session, experiment_id), "FAILED", message, reason)

    def cancelled(self, experiment_id: str) -> None:
        """Everything has ended, as was asked."""
        with self._database.session() as session:
            _finish(_row(session, experiment_id), "CANCELLED", "cancelled")


def _row(session: Session, experiment_id: str) -> ExperimentRow:
    row = session.get(ExperimentRow, experiment_id, with_for_update=True)
    if row is None:
        raise NotFound(
            "no such experiment", subject=experiment_id[:128], remedy="see ListExperiments for those that exist"
        )
    return row


def _same(row: ExperimentRow, request: ExperimentRequest) -> Experiment:
    if row.request_digest != request.digest():
        raise Conflict(
            "an experiment of this id was created with another body",
            subject=row.id,
            remedy="choose another experiment id",
        )
    return _experiment(row)


def _finish(row: ExperimentRow, state: State, message: str, reason: str = "") -> None:
    if row.state in TERMINAL:  # cancelled while its report was written, or the other way round: the first stays
        return
    row.state, row.message, row.reason, row.finished_at = state, message, reason, now()


def _experiment(row: ExperimentRow) -> Experiment:
    state: State = row.state  # type: ignore[assignment]
    return Experiment(
        id=row.id,
        request=ExperimentRequest.model_validate(row.request),
        fixed=Fixed.model_validate(row.fixed),
        state=state,
        message=row.message,
        reason=row.reason,
        cancel_requested=row.cancel_requested,
        report=None if row.report is None else ExperimentRefs.model_validate(row.report),
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
    )
