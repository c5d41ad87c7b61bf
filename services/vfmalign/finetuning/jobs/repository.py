"""Repository of training jobs: requests, states and every attempt.

    queued ──> pending <──> running ──> succeeded | failed | cancelled
      └───────────┴────────────┘

A job returns from `pending` or `running` to `queued` if another attempt follows. A job returns from `running` to
`pending` if the platform replaces a pod of the attempt. A pending job occupies a slot, because its process may already
exist.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import Session

from vfmalign.client.messages.common import JOB_STATES, TERMINAL_STATES, Failure, Progress, State
from vfmalign.client.messages.jobs import JobSpec
from vfmalign.core.domain.jobs import JobProgress, TrainingSpec
from vfmalign.core.domain.stored_objects import StoredFile
from vfmalign.core.runtime import logs
from vfmalign.database.tables import now
from vfmalign.finetuning.jobs.retries import NextAttempt, Setbacks
from vfmalign.finetuning.jobs.tables import AttemptRow, JobRow
from vfmalign.finetuning.launchers.base import Handle, Outcome
from vfmalign.finetuning.lifecycle import ARTIFACT_LOST, NO_FREE_SLOT, LifecycleRepository
from vfmalign.finetuning.metrics import job_attempts_ended
from vfmalign.finetuning.operation import Operation, common_fields

BASELINE_IN_TRAINING = "BASELINE_IN_TRAINING"
"""`Progress.reason` of a job that waits for another job that trains the same baseline."""


@dataclass(frozen=True)
class StoredJob(Operation):
    """A job as stored in the database.

    Attributes:
        started_at: time when all processes of an attempt were first observed to run; None until then.
        check_id: id of the check to which the job belongs; empty if it belongs to no check.
        request_id: id of the request that created the job. The log lines of the job contain this id.
        baseline: digest of the job's training (`request.baseline_digest`); empty if checks must not share the training.
        attempts: number of attempts that have been launched.
        setbacks: for each cause, the number of attempts that ended since the training last made progress.
        not_before: earliest time of the next attempt.
        handle: data that the launcher needs to find the running process.
        curve: learning curve up to the last validation.
        exit_code: exit code of the last process; None while a process runs, or if nobody observed how it ended.
        result: `result.json`, once it is stored.
    """

    check_id: str
    request_id: str
    request: JobSpec
    spec: TrainingSpec
    baseline: str
    attempts: int
    setbacks: Setbacks
    not_before: datetime | None
    handle: Handle | None
    curve: tuple[JobProgress, ...]
    exit_code: int | None
    result: StoredFile | None


@dataclass(frozen=True)
class Attempt:
    """One attempt of a job. `outcome` is `running`, `cancelled` or a value of `launchers.base.Outcome`.

    Attributes:
        started_at: time when the attempt was launched. The processes may have started later.
    """

    attempt: int
    started_at: datetime
    finished_at: datetime | None
    exit_code: int | None
    outcome: str


class JobRepository(LifecycleRepository[JobRow, StoredJob]):
    """All jobs of a tenant."""

    table = JobRow
    noun = "job"
    states = JOB_STATES
    stopping = "cancelling: waiting for the process to end"

    def create(
        self, request: JobSpec, spec: TrainingSpec, check_id: str = "", baseline: str = "", on_behalf_of: str = ""
    ) -> StoredJob:
        """Adds a job, or returns the existing one if the id and the request are the same.

        `on_behalf_of` is the creator of the check; see `StoredJob` for the other arguments.

        Raises:
            Conflict: the id is taken by a job with a different request.
        """
        row = JobRow(
            id=spec.job_id,
            check_id=check_id,
            request_id=logs.request_id.get(),
            spec=spec.model_dump(mode="json"),
            baseline=baseline,
            on_behalf_of=on_behalf_of,
        )
        return self._insert(row, request, "waiting for a free slot")

    def queued(self) -> tuple[StoredJob, ...]:
        """Returns jobs that wait for a process, oldest first."""
        return self._where(JobRow.state == "queued")

    def launched(self) -> tuple[StoredJob, ...]:
        """Returns pending and running jobs, which may have a process. The oldest job comes first."""
        return self._where(JobRow.state.in_(("pending", "running")))

    def count_waiting(self) -> dict[str, int]:
        """Maps each reason for waiting to the number of queued and pending jobs that wait for it."""
        query = sa.select(JobRow.progress).where(JobRow.state.in_(("queued", "pending")))
        with self._database.snapshot() as session:
            return Counter(reason for progress in session.scalars(query) if (reason := progress.get("reason")))

    def find_longest_wait(self) -> datetime | None:
        """Returns when the job that has waited longest for its first start was queued. None if no job waits.

        A job does not count as waiting if it will reuse the result of another job with the same baseline.
        """
        queued_at = sa.func.coalesce(JobRow.retried_at, JobRow.created_at)
        query = sa.select(JobRow.progress, queued_at).where(
            JobRow.state.in_(("queued", "pending")), JobRow.started_at.is_(None)
        )
        with self._database.snapshot() as session:
            waiting = [
                since for progress, since in session.execute(query) if progress.get("reason") != BASELINE_IN_TRAINING
            ]
        return min(waiting, default=None)

    def of_check(self, check_id: str) -> tuple[StoredJob, ...]:
        """Returns the jobs of a check, oldest first."""
        return self._where(JobRow.check_id == check_id)

    def same_training(self, job: StoredJob) -> StoredJob | None:
        """Returns another job that trains the same baseline.

        The caller can reuse the result of that job or wait for it. Returns a job that succeeded, if there is one. If no
        job succeeded, returns the earliest unfinished job that was queued before this job. A job waits only for earlier
        jobs, so two jobs never wait for each other.
        """
        if not job.baseline:
            return None
        others = self._where((JobRow.baseline == job.baseline) & (JobRow.id != job.id))
        done = (other for other in others if other.state == "succeeded")
        position = (job.queued_at, job.id)
        ahead = [other for other in others if not other.finished and (other.queued_at, other.id) < position]
        return next(done, None) or min(ahead, key=lambda other: (other.queued_at, other.id), default=None)

    def find_trained(self, digests: Collection[str]) -> set[str]:
        """Returns the digests of trainings for which a job has a result, or may still produce a result."""
        known = JobRow.baseline.in_(digests) & JobRow.state.not_in(("failed", "cancelled"))
        with self._database.snapshot() as session:
            return set(session.scalars(sa.select(JobRow.baseline).where(known)))

    def attempts(self, job_id: str) -> tuple[Attempt, ...]:
        """Returns all attempts of a job, in the order in which they were launched."""
        query = sa.select(AttemptRow).where(AttemptRow.job_id == job_id).order_by(AttemptRow.attempt)
        with self._database.snapshot() as session:
            return tuple(
                Attempt(row.attempt, row.started_at, row.finished_at, row.exit_code, row.outcome)
                for row in session.scalars(query)
            )

    def begin(self, job_id: str) -> StoredJob:
        """Records the intent to launch an attempt before it is launched. `record` adds the handle later.

        The order matters. If the orchestrator is killed before it records the launch, the next orchestrator finds a
        pending job without a handle. The next orchestrator then asks the launcher whether the process exists, instead
        of starting a second process.
        """
        with self._database.session() as session:
            row = self._row(session, job_id)
            if row.state != "queued":
                return self._to_item(row)
            moment = now()
            row.state, row.handle, row.not_before = "pending", None, None
            row.attempts += 1
            self._set_progress(row, Progress(phase="pending", detail=f"attempt {row.attempts}: being launched"))
            session.add(AttemptRow(job_id=job_id, attempt=row.attempts, started_at=moment, outcome="running"))
            return self._to_item(row)

    def confirm_leadership(self) -> None:
        """Checks that this orchestrator is still the leader. Called immediately before a process starts.

        Raises:
            LeaseLost: another orchestrator leads.
        """
        with self._database.session():
            pass  # every writing transaction of the leader begins with this check

    def record(self, job_id: str, handle: Handle | None, progress: Progress, *, started: bool | None) -> float | None:
        """Records the handle and the progress of the attempt, and whether its processes have started.

        Args:
            job_id: the job.
            handle: data that the launcher needs to find the attempt.
            progress: current activity of the job, or the reason why it waits.
            started: whether the processes have started: True sets the state to running, False to pending. None
                (unknown) does not change the state.

        Returns:
            Seconds since the job was created if the job has just started for the first time. None in all other cases.
        """
        with self._database.session() as session:
            row = self._row(session, job_id)
            row.handle = handle
            self._set_progress(row, progress)
            if started is not None and row.state in {"pending", "running"}:
                row.state = "running" if started else "pending"
            if not started or row.started_at is not None:
                return None
            row.started_at = now()
            return float((row.started_at - row.created_at).total_seconds())

    def postpone(self, job_id: str, progress: Progress, *, delay_s: float) -> None:
        """Reverts `begin` after a launch that started no process. The next attempt has the same number.

        Args:
            job_id: the job.
            progress: why it waits.
            delay_s: minimum delay until the next start, in seconds.
        """
        with self._database.session() as session:
            row = self._row(session, job_id)
            attempt = _get_attempt(session, row)
            if attempt is not None:
                session.delete(attempt)
            row.attempts -= 1
            if row.cancel_requested:
                self._end(session, row, "cancelled", "cancelled before it started")
                return
            self._queue(row, progress, delay_s)

    def add_points(self, job_id: str, points: Sequence[JobProgress]) -> None:
        """Appends new points to the learning curve."""
        with self._database.session() as session:
            row = self._row(session, job_id)
            row.curve = [*row.curve, *(point.model_dump(mode="json") for point in points)]

    def succeed(self, job_id: str, result: StoredFile, exit_code: int | None = None, detail: str = "finished") -> None:
        """Marks a job as succeeded after its result was stored."""
        with self._database.session() as session:
            row = self._row(session, job_id)
            row.result = result.model_dump(mode="json")
            _end_attempt(session, row, exit_code, "succeeded")
            self._end(session, row, "succeeded", detail)

    def mark_cancelled(self, job_id: str, exit_code: int | None = None) -> None:
        """Marks a job as cancelled after its process stopped. If the cancellation was withdrawn, queues the job."""
        with self._database.session() as session:
            row = self._row(session, job_id)
            if row.cancel_requested:
                _end_attempt(session, row, exit_code, "cancelled")
                self._end(session, row, "cancelled", "cancelled")
            else:
                self._queue_retried(session, row, exit_code, "interrupted")

    def fail(
        self,
        job_id: str,
        message: str,
        reason: str,
        exit_code: int | None = None,
        outcome: Outcome = "permanent",
    ) -> None:
        """Marks a job as failed; see the base class. `outcome` is the outcome of the job's last attempt.

        If a user retried the job while that attempt was stopping, the job is queued again, because the cause may be
        fixed by now.
        """
        with self._database.session() as session:
            row = self._row(session, job_id)
            attempt = _get_attempt(session, row)
            if attempt is not None and row.retried_at is not None and attempt.started_at < row.retried_at:
                self._queue_retried(session, row, exit_code, outcome)
                return
            _end_attempt(session, row, exit_code, outcome)
            failure = Failure(reason=reason, message=message, exit_code=exit_code)
            self._end(session, row, "failed", message, failure)

    def requeue(self, job_id: str, next_attempt: NextAttempt, *, exit_code: int | None) -> None:
        """Queues another attempt of the job. The attempt resumes from the checkpoint.

        Args:
            job_id: the job.
            next_attempt: reason and time of the next attempt.
            exit_code: exit code of the attempt that ended.
        """
        with self._database.session() as session:
            row = self._row(session, job_id)
            _end_attempt(session, row, exit_code, next_attempt.outcome)
            _set_setbacks(row, next_attempt.setbacks)
            if row.cancel_requested:  # since the supervisor read the row
                self._end(session, row, "cancelled", "cancelled")
                return
            self._queue(row, next_attempt.progress, next_attempt.delay_s)

    def _queue_retried(self, session: Session, row: JobRow, exit_code: int | None, outcome: str) -> None:
        if row.state not in TERMINAL_STATES:
            _end_attempt(session, row, exit_code, outcome)
            self._queue(row, Progress(phase="queued", detail="waiting to continue", reason=NO_FREE_SLOT), 0.0)

    def reopen(self, item_id: str, detail: str) -> StoredJob:
        """Queues a successful job again because its result or its published model was lost; see the base class."""
        with self._database.session() as session:
            row = self._row(session, item_id)
            if row.state == "succeeded" and row.erased_at is None:
                row.result, row.finished_at, row.exit_code, row.cancel_requested = None, None, None, False
                _set_setbacks(row, Setbacks())
                row.state = "queued"
                self._queue(row, Progress(phase="queued", detail=detail, reason=ARTIFACT_LOST), 0.0)
            return self._to_item(row)

    def _queue(self, row: JobRow, progress: Progress, delay_s: float) -> None:
        row.state, row.handle = "queued", None
        row.not_before = now() + timedelta(seconds=delay_s)
        self._set_progress(row, progress)

    def _end(self, session: Session, row: JobRow, state: State, detail: str, failure: Failure | None = None) -> None:
        super()._end(session, row, state, detail, failure)
        row.handle, row.not_before = None, None

    def _erase(self, session: Session, row: JobRow) -> None:
        # Without `baseline`, no other job takes over the result.
        row.result, row.baseline = None, ""

    def _reset(self, row: JobRow) -> None:
        _set_setbacks(row, Setbacks(step=row.checkpoint_step))
        row.not_before = None

    def _where(self, condition: sa.ColumnElement[bool]) -> tuple[StoredJob, ...]:
        return self._select(sa.select(JobRow).where(condition).order_by(JobRow.created_at, JobRow.id))

    def _to_item(self, row: JobRow) -> StoredJob:
        return StoredJob(
            **common_fields(row),
            check_id=row.check_id,
            request_id=row.request_id,
            request=JobSpec.model_validate(row.request),
            spec=TrainingSpec.model_validate(row.spec),
            baseline=row.baseline,
            attempts=row.attempts,
            setbacks=Setbacks(row.failures, row.interruptions, row.outages, row.checkpoint_step),
            not_before=row.not_before,
            handle=row.handle,
            curve=tuple(JobProgress.model_validate(point) for point in row.curve or ()),
            exit_code=row.exit_code,
            result=None if row.result is None else StoredFile.model_validate(row.result),
        )


def _get_attempt(session: Session, row: JobRow) -> AttemptRow | None:
    """Returns the latest attempt."""
    return session.get(AttemptRow, (row.tenant, row.id, row.attempts))


def _end_attempt(session: Session, row: JobRow, exit_code: int | None, outcome: str) -> None:
    row.exit_code = exit_code
    attempt = _get_attempt(session, row)
    if attempt is not None and attempt.finished_at is None:
        attempt.finished_at, attempt.exit_code, attempt.outcome = now(), exit_code, outcome
        event.listen(session, "after_commit", lambda _: job_attempts_ended.labels(outcome).inc(), once=True)


def _set_setbacks(row: JobRow, setbacks: Setbacks) -> None:
    row.failures, row.interruptions, row.outages = setbacks.failures, setbacks.interruptions, setbacks.outages
    row.checkpoint_step = setbacks.step
