"""Repository of alignment checks: requests, states and every run of every stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.orm import Session, defer

from vfmalign.client.messages.checks import CheckSpec, EarlierCheck
from vfmalign.client.messages.common import Failure, Progress, State
from vfmalign.client.messages.tasks import Task
from vfmalign.core.domain.record import Record
from vfmalign.core.domain.stored_objects import StoredFile
from vfmalign.database.tables import now
from vfmalign.finetuning.checks.tables import CheckRow, StageRow
from vfmalign.finetuning.deleted import DeletedRow
from vfmalign.finetuning.jobs.tables import JobRow
from vfmalign.finetuning.lifecycle import LifecycleRepository
from vfmalign.finetuning.operation import Operation, common_fields

StageOutcome = Literal["running", "succeeded", "failed", "interrupted", "cancelled", "lost"]
"""Outcomes of a run. `lost`: the output of an earlier run was lost, so the stage runs again."""


class ReportRefs(Record):
    """The stored report of a finished check, and the signed statement about it if the check has a plan."""

    json_ref: StoredFile
    html_ref: StoredFile
    statement_ref: StoredFile | None = None


@dataclass(frozen=True)
class StoredCheck(Operation):
    """A check as stored in the database.

    Attributes:
        state: never `pending`.
        stage_progress: progress of each running stage that has reported its progress. In each progress, `phase` is the
            name of the stage.
        report: the report; None unless the check succeeded.
    """

    state: State
    request: CheckSpec
    stage_progress: tuple[Progress, ...]
    report: ReportRefs | None


@dataclass(frozen=True)
class Summary(Operation):
    """A check without its request. Queries over many checks return such summaries."""

    state: State
    request_digest: str


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


class CheckRepository(LifecycleRepository[CheckRow, StoredCheck]):
    """All checks of a tenant."""

    table = CheckRow
    noun = "check"
    stopping = "cancelling: waiting for its jobs and calls to end"

    def create(self, check_id: str, request: CheckSpec, on_behalf_of: str = "") -> StoredCheck:
        """Adds a check, or returns the existing one if the id and the request are the same.

        `on_behalf_of` is the creator of the experiment, if the check is a cell.

        Raises:
            Conflict: the id is taken by a check with a different request.
        """
        return self._insert(CheckRow(id=check_id, on_behalf_of=on_behalf_of), request, "waiting to begin")

    def active(self) -> tuple[StoredCheck, ...]:
        """Returns the unfinished checks: first the running checks, then the queued checks, both from old to new."""
        return self._select(
            sa.select(CheckRow)
            .where(CheckRow.state.in_(("running", "queued")))
            .order_by(CheckRow.state.desc(), CheckRow.created_at, CheckRow.id)
        )

    def summaries(self, check_ids: Sequence[str]) -> dict[str, Summary]:
        """Maps ids to summaries of their checks. Ids without a check are left out."""
        large = (defer(CheckRow.request), defer(CheckRow.stage_progress), defer(CheckRow.report))
        query = sa.select(CheckRow).where(CheckRow.id.in_(check_ids)).options(*large)
        with self._database.snapshot() as session:
            rows = session.scalars(query)
            return {row.id: Summary(**common_fields(row), request_digest=row.request_digest) for row in rows}

    def list_earlier(self, check: StoredCheck) -> list[tuple[EarlierCheck, Task]]:
        """Returns the checks of the same dataset id and model digest that were created before a check, oldest first.

        Includes deleted checks. A check that has not pinned a digest yet counts if it has the same model id.
        """
        spec, request = check.request, CheckRow.request
        of_job = JobRow.request["model_sha256"].as_string()
        live = sa.select(CheckRow.id, CheckRow.created_at, request).where(
            request["dataset_id"].as_string() == spec.dataset_id,
            CheckRow.created_at <= check.created_at,
            CheckRow.id != check.id,
        )
        facts = DeletedRow.facts
        deleted = sa.select(DeletedRow.id, facts).where(
            DeletedRow.noun == self.noun,
            facts["dataset_id"].as_string() == spec.dataset_id,
            facts["model_sha256"].as_string() == spec.model_sha256,
        )
        found: list[tuple[EarlierCheck, Task]] = []
        with self._database.snapshot() as session:
            for name, created_at, other in session.execute(live):
                jobs = session.scalars(sa.select(of_job).where(JobRow.check_id == name).distinct())
                digests = {other["model_sha256"], *jobs} - {""}
                if spec.model_sha256 in digests or (not digests and other["model_id"] == spec.model_id):
                    found.append(_to_earlier(name, created_at, other["task"]))
            for name, known in session.execute(deleted):
                if (created_at := datetime.fromisoformat(known["created_at"])) <= check.created_at:
                    found.append(_to_earlier(name, created_at, known["task"]))
        return sorted(found, key=lambda one: (one[0].create_time, one[0].check_id))

    def begin(self, check_id: str) -> StoredCheck:
        """Moves a queued check to running."""
        with self._database.session() as session:
            row = self._row(session, check_id)
            if row.state == "queued":
                row.state, row.started_at = "running", row.started_at or now()
                self._set_progress(row, Progress(phase="starting", detail="starting"))
            return self._to_item(row)

    def set_stage_progress(self, check_id: str, stages: Sequence[Progress]) -> None:
        """Records what the running stages are doing or waiting for.

        Args:
            check_id: the check.
            stages: progress of each running stage, at least one. In each progress, `phase` is the name of the stage.
        """
        with self._database.session() as session:
            row = self._row(session, check_id)
            if self._set_progress(row, summarise(stages)):
                row.stage_progress = [stage.model_dump(mode="json") for stage in stages]

    def succeed(self, check_id: str, report: ReportRefs) -> None:
        """Marks a check as finished after its report was stored."""
        with self._database.session() as session:
            row = self._row(session, check_id)
            row.report = report.model_dump(mode="json")
            self._end(session, row, "succeeded", "finished")

    def stages(self, check_id: str) -> tuple[StageRun, ...]:
        """Returns all runs of all stages, in the order in which the runs began."""
        query = sa.select(StageRow).where(StageRow.check_id == check_id).order_by(StageRow.started_at, StageRow.attempt)
        with self._database.snapshot() as session:
            return tuple(_to_stage_run(row) for row in session.scalars(query))

    def begin_stage(self, check_id: str, stage: str) -> int:
        """Records that a stage begins, and returns the number of the attempt.

        If an earlier attempt has not ended, marks it as interrupted.
        """
        with self._database.session() as session:
            rows = _stage_rows(session, check_id, stage)
            for row in rows:
                if row.finished_at is None:
                    _end_stage(row, "interrupted", "the orchestrator ended")
            attempt = 1 + max((row.attempt for row in rows), default=0)
            session.add(StageRow(check_id=check_id, stage=stage, attempt=attempt, started_at=now(), outcome="running"))
        return attempt

    def end_stage(
        self, check_id: str, stage: str, outcome: StageOutcome, message: str = "", artifact_sha256: str = ""
    ) -> None:
        """Records the outcome of the attempt that has not ended yet.

        After a restart or a retry, also call this method for a stage that already has its artifact. The attempt of such
        a stage is still open in two cases: the stage was cancelled while it stored the artifact, or the orchestrator
        was killed before this call. If no attempt is open, a success replaces the failure or cancellation of the latest
        attempt. Other outcomes are not recorded.

        Args:
            check_id: the check.
            stage: name of the stage.
            outcome: how the attempt ended.
            message: why the attempt did not succeed.
            artifact_sha256: digest of the stored artifact. Later readers of the artifact verify this digest.
        """
        with self._database.session() as session:
            rows = _stage_rows(session, check_id, stage)
            ended = [row for row in rows if row.finished_at is None]
            if not ended and outcome == "succeeded":
                latest = max(rows, key=lambda row: row.attempt, default=None)
                ended = [] if latest is None or latest.outcome in ("succeeded", "lost") else [latest]
            for row in ended:
                _end_stage(row, outcome, message)
                row.artifact_sha256 = artifact_sha256

    def artifact_digests(self, check_id: str) -> dict[str, str]:
        """Maps each stage that has stored an artifact to the SHA-256 of its latest artifact."""
        columns = StageRow.stage, StageRow.artifact_sha256
        query = sa.select(*columns).where(StageRow.check_id == check_id).order_by(StageRow.attempt)
        with self._database.snapshot() as session:
            return {row.stage: row.artifact_sha256 for row in session.execute(query) if row.artifact_sha256}

    def forget_artifacts(self, check_id: str, stages: Sequence[str]) -> None:
        """Deletes the digests of artifacts that will be computed again."""
        condition = (StageRow.check_id == check_id) & StageRow.stage.in_(stages)
        with self._database.session() as session:
            session.execute(sa.update(StageRow).where(condition).values(artifact_sha256=""))

    def record_loss(self, check_id: str, stage: str, message: str) -> None:
        """Records that the output of a stage was lost."""
        with self._database.session() as session:
            attempt = 1 + max((row.attempt for row in _stage_rows(session, check_id, stage)), default=0)
            row = StageRow(check_id=check_id, stage=stage, attempt=attempt, started_at=now())
            _end_stage(row, "lost", message)
            session.add(row)

    def job_results(self, check_id: str) -> dict[str, StoredFile]:
        """Maps each job of a check to its stored result."""
        query = sa.select(JobRow.id, JobRow.result).where(JobRow.check_id == check_id)
        with self._database.snapshot() as session:
            rows = session.execute(query).all()
        return {row.id: StoredFile.model_validate(row.result) for row in rows if row.result is not None}

    def _erase(self, session: Session, row: CheckRow) -> None:
        row.report = None
        runs = sa.update(StageRow).where(StageRow.check_id == row.id)
        session.execute(runs.values(message="", artifact_sha256=""))  # messages may name cases

    def _end(self, session: Session, row: CheckRow, state: State, detail: str, failure: Failure | None = None) -> None:
        super()._end(session, row, state, detail, failure)
        row.stage_progress = []
        if state != "succeeded":
            _end_open_stages(session, row.id)

    def _to_item(self, row: CheckRow) -> StoredCheck:
        return StoredCheck(
            **common_fields(row),
            request=CheckSpec.model_validate(row.request),
            stage_progress=tuple(Progress.model_validate(stage) for stage in row.stage_progress),
            report=None if row.report is None else ReportRefs.model_validate(row.report),
        )


def _to_earlier(check_id: str, created_at: datetime, task: dict[str, Any]) -> tuple[EarlierCheck, Task]:
    return EarlierCheck(check_id=check_id, create_time=created_at), Task.model_validate(task)


def summarise(stages: Sequence[Progress]) -> Progress:
    """Combines the progress of the running stages into the progress of the check.

    Phase and counts come from a running training, because trainings take longest. If no training is running, phase and
    counts come from the first stage that has counts. The detail joins the details of all stages. The reason comes from
    the first stage that waits.
    """
    training = next((stage for stage in stages if stage.unit == "epoch"), None)
    main = training or next((stage for stage in stages if stage.unit), stages[0])
    return main.model_copy(
        update={
            "detail": "; ".join(dict.fromkeys(stage.detail for stage in stages)),
            "reason": next((stage.reason for stage in stages if stage.reason), ""),
        }
    )


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


def _to_stage_run(row: StageRow) -> StageRun:
    outcome: StageOutcome = row.outcome  # type: ignore[assignment]
    return StageRun(row.stage, row.attempt, row.started_at, row.finished_at, row.seconds, outcome, row.message)
