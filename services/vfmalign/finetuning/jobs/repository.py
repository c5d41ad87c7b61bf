"""The book of fine-tuning jobs: what was asked, what state each is in, and every attempt at it.

Knows the states and which may follow which. Knows nothing of processes, S3 or gRPC: `supervisor` moves jobs along.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, get_args

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from vfmalign.core.domain.artifacts import JobProgress, Record, TrainingSpec
from vfmalign.core.domain.errors import Conflict, NotFound
from vfmalign.finetuning.db.database import AttemptRow, Database, JobRow, now
from vfmalign.finetuning.db.pagination import Page, PageRequest, read_page
from vfmalign.finetuning.jobs.request import JobRequest
from vfmalign.finetuning.launchers.base import classify

State = Literal["QUEUED", "RUNNING", "SUCCEEDED", "FAILED", "CANCELLED"]
STATES: tuple[State, ...] = get_args(State)
NO_PLACE = "waiting for a free place"
TERMINAL: frozenset[State] = frozenset({"SUCCEEDED", "FAILED", "CANCELLED"})


class StoredRef(Record):
    """A stored object: its key, digest and size in bytes."""

    key: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class Job:
    """A job as it stands.

    Attributes:
        check_id: the check it belongs to, empty for a job of its own.
        baseline: digest of its training, where checks may share it (`requests.baseline_digest`); else empty.
        message: one sentence on the state; for FAILED the reason in words.
        reason: UPPER_SNAKE_CASE reason of a failure, else empty.
        attempts: processes started so far; `failures` are those of them that died of something retryable.
        handle: what the launcher needs to find the running process.
        curve: the learning curve so far.
        exit_code: of the last process; None while one runs, or where nobody saw it.
        result: key, digest and size of `result.json`, once it is there.
    """

    id: str
    check_id: str
    request: JobRequest
    spec: TrainingSpec
    baseline: str
    state: State
    message: str
    reason: str
    cancel_requested: bool
    attempts: int
    failures: int
    not_before: datetime | None
    handle: dict[str, Any] | None
    curve: tuple[JobProgress, ...]
    exit_code: int | None
    result: StoredRef | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @property
    def finished(self) -> bool:
        """Whether no state can follow."""
        return self.state in TERMINAL


@dataclass(frozen=True)
class Attempt:
    """One process of a job; `outcome` is running, succeeded, retryable, permanent, interrupted or cancelled."""

    attempt: int
    started_at: datetime
    finished_at: datetime | None
    exit_code: int | None
    outcome: str


class JobRepository:
    """All jobs of a database. Every method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, job_id: str, request: JobRequest) -> Job | None:
        """The job of this id if it was asked for with the same request, None if there is none.

        Raises:
            Conflict: there is one, asked for with another body.
        """
        with self._database.session() as session:
            row = session.get(JobRow, job_id)
            return None if row is None else _same(row, request)

    def create(self, request: JobRequest, spec: TrainingSpec, check_id: str = "", baseline: str = "") -> Job:
        """Adds a job; the same id and request again returns the first.

        Raises:
            Conflict: the id exists with another body.
        """
        row = JobRow(
            id=spec.id, check_id=check_id, request_digest=request.digest(), request=request.model_dump(mode="json"),
            spec=spec.model_dump(mode="json"), baseline=baseline, state="QUEUED", message=NO_PLACE,
            created_at=now(),
        )  # fmt: skip
        try:
            with self._database.session() as session:
                session.add(row)
        except IntegrityError:
            with self._database.session() as session:
                return _same(session.get_one(JobRow, spec.id), request)
        return _job(row)

    def get(self, job_id: str) -> Job:
        """One job.

        Raises:
            NotFound: no job has this id.
        """
        with self._database.session() as session:
            return _job(_row(session, job_id))

    def list(self, request: PageRequest) -> Page[Job]:
        """One page of jobs, newest first."""
        with self._database.session() as session:
            return read_page(session, JobRow, request, _job)

    def queued(self) -> tuple[Job, ...]:
        """Jobs that wait for a process, oldest first."""
        return self._in_state("QUEUED")

    def running(self) -> tuple[Job, ...]:
        """Jobs that have a process, oldest first."""
        return self._in_state("RUNNING")

    def of_check(self, check_id: str) -> tuple[Job, ...]:
        """The jobs of a check, oldest first."""
        return self._select(JobRow.check_id == check_id)

    def same_training(self, job: Job) -> Job | None:
        """The job whose result a baseline can take or wait for: one that succeeded, else the oldest one ahead of it."""
        if not job.baseline:
            return None
        others = self._select((JobRow.baseline == job.baseline) & (JobRow.id != job.id))
        done = (other for other in others if other.state == "SUCCEEDED")
        mine = (job.created_at, job.id)
        ahead = (other for other in others if not other.finished and (other.created_at, other.id) < mine)
        return next(done, None) or next(ahead, None)

    def attempts(self, job_id: str) -> tuple[Attempt, ...]:
        """Every process of a job, in order."""
        query = sa.select(AttemptRow).where(AttemptRow.job_id == job_id).order_by(AttemptRow.attempt)
        with self._database.session() as session:
            return tuple(
                Attempt(row.attempt, row.started_at, row.finished_at, row.exit_code, row.outcome)
                for row in session.scalars(query)
            )

    def counts(self) -> dict[State, int]:
        """Number of jobs per state, zeros included."""
        query = sa.select(JobRow.state, sa.func.count()).group_by(JobRow.state)
        with self._database.session() as session:
            found = {row[0]: row[1] for row in session.execute(query)}
        return {state: found.get(state, 0) for state in STATES}

    def cancel(self, job_id: str) -> Job:
        """Asks a job to end: a queued one ends at once, a running one when its process has; a finished one stays."""
        with self._database.session() as session:
            row = _row(session, job_id)
            if row.state == "QUEUED":
                _finish(row, "CANCELLED", "cancelled before it started")
            elif row.state == "RUNNING" and not row.cancel_requested:
                row.cancel_requested = True
                row.message = "cancelling: waiting for the process to end"
            return _job(row)

    def begin(self, job_id: str) -> Job:
        """Writes down the intent to start a process, before it is started; the handle follows with `record`."""
        with self._database.session() as session:
            row = _row(session, job_id)
            if row.state != "QUEUED":
                return _job(row)
            moment = now()
            row.state, row.message, row.handle, row.not_before = "RUNNING", "starting", None, None
            row.attempts += 1
            row.started_at = row.started_at or moment
            session.add(AttemptRow(job_id=job_id, attempt=row.attempts, started_at=moment, outcome="running"))
            return _job(row)

    def record(self, job_id: str, handle: dict[str, Any] | None, waits_for: str = "") -> None:
        """Writes down how to find the running process, and what keeps it from training if anything does."""
        with self._database.session() as session:
            row = _row(session, job_id)
            row.handle = handle
            if not row.cancel_requested:
                row.message = running_message(row.attempts, waits_for)

    def wait(self, job_id: str, message: str) -> None:
        """Writes down what a queued job waits for."""
        with self._database.session() as session:
            row = _row(session, job_id)
            if row.state == "QUEUED":
                row.message = message

    def postpone(self, job_id: str, message: str, *, delay_s: float) -> None:
        """Takes `begin` back: no process was started. The next one has the same attempt's number.

        Args:
            job_id: the job.
            message: why.
            delay_s: earliest time of the next start from now, in seconds.
        """
        with self._database.session() as session:
            row = _row(session, job_id)
            attempt = session.get(AttemptRow, (row.id, row.attempts))
            if attempt is not None:
                session.delete(attempt)
            row.attempts -= 1
            row.started_at = row.started_at if row.attempts else None
            if row.cancel_requested:
                _finish(row, "CANCELLED", "cancelled before it started")
                return
            row.state, row.message, row.handle = "QUEUED", message, None
            row.not_before = now() + timedelta(seconds=delay_s)

    def add_points(self, job_id: str, points: Sequence[JobProgress]) -> None:
        """Writes down new points of the learning curve."""
        with self._database.session() as session:
            row = _row(session, job_id)
            row.curve = [*row.curve, *(point.model_dump(mode="json") for point in points)]

    def succeed(self, job_id: str, result: StoredRef, exit_code: int | None = None, message: str = "finished") -> None:
        """The result is there."""
        with self._database.session() as session:
            row = _row(session, job_id)
            row.result = result.model_dump(mode="json")
            _end_attempt(session, row, exit_code, "succeeded")
            _finish(row, "SUCCEEDED", message)

    def cancelled(self, job_id: str, exit_code: int | None = None) -> None:
        """The process has ended, as was asked."""
        with self._database.session() as session:
            row = _row(session, job_id)
            _end_attempt(session, row, exit_code, "cancelled")
            _finish(row, "CANCELLED", "cancelled")

    def fail(self, job_id: str, message: str, reason: str, exit_code: int | None = None) -> None:
        """The job cannot be finished."""
        with self._database.session() as session:
            row = _row(session, job_id)
            _end_attempt(session, row, exit_code, classify(exit_code) if exit_code else "permanent")
            _finish(row, "FAILED", message, reason)

    def requeue(self, job_id: str, message: str, *, exit_code: int | None, delay_s: float, counted: bool) -> None:
        """Another attempt will follow, resuming from the checkpoint.

        Args:
            job_id: the job.
            message: why.
            exit_code: of the attempt that ended.
            delay_s: earliest time of the next attempt from now, in seconds.
            counted: whether the attempt counts against the limit; one that we stopped ourselves does not.
        """
        with self._database.session() as session:
            row = _row(session, job_id)
            _end_attempt(session, row, exit_code, "retryable" if counted else "interrupted")
            row.state, row.message, row.handle = "QUEUED", message, None
            row.failures += int(counted)
            row.not_before = now() + timedelta(seconds=delay_s)

    def _in_state(self, state: State) -> tuple[Job, ...]:
        return self._select(JobRow.state == state)

    def _select(self, condition: sa.ColumnElement[bool]) -> tuple[Job, ...]:
        query = sa.select(JobRow).where(condition).order_by(JobRow.created_at, JobRow.id)
        with self._database.session() as session:
            return tuple(_job(row) for row in session.scalars(query))


def running_message(attempt: int, waits_for: str) -> str:
    """What is said of a job that has a process."""
    return f"attempt {attempt}: {waits_for}" if waits_for else f"training, attempt {attempt}"


def _row(session: Session, job_id: str) -> JobRow:
    row = session.get(JobRow, job_id, with_for_update=True)
    if row is None:
        raise NotFound("no such job", subject=job_id[:128], remedy="see ListJobs for those that exist")
    return row


def _same(row: JobRow, request: JobRequest) -> Job:
    if row.request_digest != request.digest():
        raise Conflict("a job of this id was created with another body", subject=row.id, remedy="choose another job id")
    return _job(row)


def _end_attempt(session: Session, row: JobRow, exit_code: int | None, outcome: str) -> None:
    row.exit_code = exit_code
    attempt = session.get(AttemptRow, (row.id, row.attempts))
    if attempt is not None and attempt.finished_at is None:
        attempt.finished_at, attempt.exit_code, attempt.outcome = now(), exit_code, outcome


def _finish(row: JobRow, state: State, message: str, reason: str = "") -> None:
    row.state, row.message, row.reason, row.handle, row.not_before = state, message, reason, None, None
    row.finished_at = now()


def _job(row: JobRow) -> Job:
    state: State = row.state  # type: ignore[assignment]
    return Job(
        id=row.id,
        check_id=row.check_id,
        request=JobRequest.model_validate(row.request),
        spec=TrainingSpec.model_validate(row.spec),
        baseline=row.baseline,
        state=state,
        message=row.message,
        reason=row.reason,
        cancel_requested=row.cancel_requested,
        attempts=row.attempts,
        failures=row.failures,
        not_before=row.not_before,
        handle=row.handle,
        curve=tuple(JobProgress.model_validate(point) for point in row.curve or ()),
        exit_code=row.exit_code,
        result=None if row.result is None else StoredRef.model_validate(row.result),
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
    )
