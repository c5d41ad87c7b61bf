"""The book of alignment checks: what was asked, what state each is in, and every run of every stage.

Knows the states and which may follow which. Knows nothing of S3, gRPC or what a stage does: see
`stages` and `reconciler`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from vfmalign.core.domain.artifacts import Record
from vfmalign.core.domain.errors import Conflict, NotFound
from vfmalign.finetuning.checks.request import CheckRequest
from vfmalign.finetuning.db.database import CheckRow, Database, StageRow, now
from vfmalign.finetuning.db.pagination import Page, PageRequest, read_page
from vfmalign.finetuning.jobs.repository import TERMINAL, State, StoredRef

StageOutcome = Literal["running", "succeeded", "failed", "interrupted", "cancelled"]


class StageProgress(Record):
    """How far the running stage is; `total` is 0 where unknown."""

    stage: str
    done: int
    total: int
    unit: str
    elapsed_s: float


class ReportRefs(Record):
    """Where a finished check's report lies."""

    json_ref: StoredRef
    html_ref: StoredRef


@dataclass(frozen=True)
class Check:
    """A check as it stands.

    Attributes:
        message: one sentence on what it is doing or waiting for; for FAILED the reason in words.
        reason: UPPER_SNAKE_CASE reason of a failure, else empty.
        report: set when it succeeded.
    """

    id: str
    request: CheckRequest
    state: State
    message: str
    reason: str
    cancel_requested: bool
    progress: StageProgress | None
    report: ReportRefs | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @property
    def finished(self) -> bool:
        """Whether no state can follow."""
        return self.state in TERMINAL


@dataclass(frozen=True)
class Brief:
    """What a check is doing, without its request: for whoever looks at many at once."""

    id: str
    request_digest: str
    state: State
    message: str
    reason: str
    finished_at: datetime | None

    @property
    def finished(self) -> bool:
        """Whether no state can follow."""
        return self.state in TERMINAL


@dataclass(frozen=True)
class StageRun:
    """One run of one stage by one process of the orchestrator."""

    stage: str
    attempt: int
    started_at: datetime
    finished_at: datetime | None
    seconds: float | None
    outcome: StageOutcome
    message: str


class CheckRepository:
    """All checks of a database. Every method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, check_id: str, request: CheckRequest) -> Check:
        """Adds a check; the same id and request again returns the first.

        Raises:
            Conflict: the id exists with another request.
        """
        row = CheckRow(
            id=check_id, request_digest=request.digest(), request=request.model_dump(mode="json"), state="QUEUED",
            message="waiting to begin", created_at=now(),
        )  # fmt: skip
        try:
            with self._database.session() as session:
                session.add(row)
        except IntegrityError:
            with self._database.session() as session:
                row = session.get_one(CheckRow, check_id)
                if row.request_digest != request.digest():
                    raise Conflict(
                        "a check of this id was created with another body",
                        subject=check_id,
                        remedy="choose another check id",
                    ) from None
        return _check(row)

    def get(self, check_id: str) -> Check:
        """One check.

        Raises:
            NotFound: no check has this id.
        """
        with self._database.session() as session:
            return _check(_row(session, check_id))

    def list(self, request: PageRequest) -> Page[Check]:
        """One page of checks, newest first."""
        with self._database.session() as session:
            return read_page(session, CheckRow, request, _check)

    def active(self) -> tuple[Check, ...]:
        """Checks that are not finished: running ones first, then oldest first."""
        query = (
            sa.select(CheckRow)
            .where(CheckRow.state.in_(("RUNNING", "QUEUED")))
            .order_by(CheckRow.state.desc(), CheckRow.created_at, CheckRow.id)
        )
        with self._database.session() as session:
            return tuple(_check(row) for row in session.scalars(query))

    def briefs(self, check_ids: Sequence[str]) -> dict[str, Brief]:
        """Those of these checks that exist, by id."""
        columns = (
            CheckRow.id, CheckRow.request_digest, CheckRow.state, CheckRow.message, CheckRow.reason,
            CheckRow.finished_at,
        )  # fmt: skip
        query = sa.select(*columns).where(CheckRow.id.in_(check_ids))
        with self._database.session() as session:
            return {row.id: _brief(row) for row in session.execute(query)}

    def cancel(self, check_id: str) -> Check:
        """Asks a check to end: a queued one ends at once, a running one when its work has; a finished one stays."""
        with self._database.session() as session:
            row = _row(session, check_id)
            if row.state == "QUEUED":
                _finish(row, "CANCELLED", "cancelled before it began")
            elif row.state == "RUNNING" and not row.cancel_requested:
                row.cancel_requested = True
                row.message = "cancelling: waiting for its jobs and calls to end"
            return _check(row)

    def begin(self, check_id: str) -> Check:
        """The check is being worked on from now."""
        with self._database.session() as session:
            row = _row(session, check_id)
            if row.state == "QUEUED":
                row.state, row.message, row.started_at = "RUNNING", "beginning", now()
            return _check(row)

    def say(self, check_id: str, message: str, progress: StageProgress | None = None) -> None:
        """Writes down what the check is doing or waiting for; a check that ends keeps its last words."""
        with self._database.session() as session:
            row = _row(session, check_id)
            if row.state == "RUNNING" and not row.cancel_requested:
                row.message = message
                row.progress = None if progress is None else progress.model_dump(mode="json")

    def succeed(self, check_id: str, report: ReportRefs) -> None:
        """The report is stored."""
        with self._database.session() as session:
            row = _row(session, check_id)
            row.report = report.model_dump(mode="json")
            _finish(row, "SUCCEEDED", "finished")

    def fail(self, check_id: str, message: str, reason: str) -> None:
        """The check cannot be finished."""
        with self._database.session() as session:
            _finish(_row(session, check_id), "FAILED", message, reason)
            _end_open_stages(session, check_id)

    def cancelled(self, check_id: str) -> None:
        """Everything has ended, as was asked."""
        with self._database.session() as session:
            _finish(_row(session, check_id), "CANCELLED", "cancelled")
            _end_open_stages(session, check_id)

    # --- stages ---

    def stages(self, check_id: str) -> tuple[StageRun, ...]:
        """Every run of every stage, in the order in which they began."""
        query = sa.select(StageRow).where(StageRow.check_id == check_id).order_by(StageRow.started_at, StageRow.attempt)
        with self._database.session() as session:
            return tuple(_stage(row) for row in session.scalars(query))

    def begin_stage(self, check_id: str, stage: str) -> int:
        """Writes down that a stage is begun; returns the number of this attempt. An open one was interrupted."""
        with self._database.session() as session:
            rows = _stage_rows(session, check_id, stage)
            for row in rows:
                if row.finished_at is None:
                    _end_stage(row, "interrupted", "the orchestrator ended")
            attempt = 1 + max((row.attempt for row in rows), default=0)
            session.add(StageRow(check_id=check_id, stage=stage, attempt=attempt, started_at=now(), outcome="running"))
        return attempt

    def end_stage(self, check_id: str, stage: str, outcome: StageOutcome, message: str = "") -> None:
        """Writes down how the open attempt ended; without an open one nothing is written.

        A stage that is found done after a restart ends here as well: it was interrupted between its artifact and
        this line.
        """
        with self._database.session() as session:
            for row in _stage_rows(session, check_id, stage):
                if row.finished_at is None:
                    _end_stage(row, outcome, message)


def _row(session: Session, check_id: str) -> CheckRow:
    row = session.get(CheckRow, check_id, with_for_update=True)
    if row is None:
        raise NotFound("no such check", subject=check_id[:128], remedy="see ListChecks for those that exist")
    return row


def _stage_rows(session: Session, check_id: str, stage: str) -> Sequence[StageRow]:
    query = sa.select(StageRow).where(StageRow.check_id == check_id, StageRow.stage == stage).with_for_update()
    return session.scalars(query).all()


def _end_open_stages(session: Session, check_id: str) -> None:
    query = sa.select(StageRow).where(StageRow.check_id == check_id, StageRow.finished_at.is_(None))
    for row in session.scalars(query).all():
        _end_stage(row, "cancelled", "the check ended")


def _end_stage(row: StageRow, outcome: StageOutcome, message: str) -> None:
    row.finished_at, row.outcome, row.message = now(), outcome, message
    row.seconds = (row.finished_at - row.started_at).total_seconds()


def _finish(row: CheckRow, state: State, message: str, reason: str = "") -> None:
    row.state, row.message, row.reason, row.progress, row.finished_at = state, message, reason, None, now()


def _check(row: CheckRow) -> Check:
    state: State = row.state  # type: ignore[assignment]
    return Check(
        id=row.id,
        request=CheckRequest.model_validate(row.request),
        state=state,
        message=row.message,
        reason=row.reason,
        cancel_requested=row.cancel_requested,
        progress=None if row.progress is None else StageProgress.model_validate(row.progress),
        report=None if row.report is None else ReportRefs.model_validate(row.report),
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
    )


def _brief(row: Any) -> Brief:
    return Brief(row.id, row.request_digest, row.state, row.message, row.reason, row.finished_at)


def _stage(row: StageRow) -> StageRun:
    outcome: StageOutcome = row.outcome  # type: ignore[assignment]
    return StageRun(row.stage, row.attempt, row.started_at, row.finished_at, row.seconds, outcome, row.message)
