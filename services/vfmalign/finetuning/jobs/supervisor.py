"""Job supervisor: launches queued jobs, monitors launched jobs and records their outcome.

Each action compares the state of the database, the launcher and the stored artifacts. Actions are idempotent, so the
process can be killed at any point. `JobRounds` decides when a supervisor acts.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from vfmalign.client.messages.common import Progress
from vfmalign.core.domain.errors import (
    TERMINATED,
    Conflict,
    DataLoss,
    NotFound,
    PreconditionFailed,
    StoreUnavailable,
    Unavailable,
    VfmalignError,
)
from vfmalign.core.domain.jobs import JobFailure, JobProgress, JobResult
from vfmalign.core.domain.stored_objects import StoredFile
from vfmalign.core.runtime import logs
from vfmalign.core.runtime.metrics import artifacts_recomputed
from vfmalign.core.storage.keys import job_key
from vfmalign.core.storage.provenance import Provenance, record_provenance
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.database.tables import now
from vfmalign.finetuning import metrics
from vfmalign.finetuning.jobs.repository import BASELINE_IN_TRAINING, JobRepository, StoredJob
from vfmalign.finetuning.jobs.results import check_encoder
from vfmalign.finetuning.jobs.retries import GivenUp, Limits, decide
from vfmalign.finetuning.launchers.base import Exited, Launcher, Origin, Running

_log = logs.get(__name__)


@dataclass(eq=False)
class Supervisor:
    """Runs the jobs of one tenant. This class is not thread-safe."""

    jobs: JobRepository
    store: ObjectStore
    launcher: Launcher
    limits: Limits
    _stop_requests: dict[str, float] = field(default_factory=dict)
    _store_is_down: bool = False

    @property
    def can_start(self) -> bool:
        """Whether the store answered in this round. If the store is down, each further job would wait for a timeout."""
        return not self._store_is_down

    def monitor(self) -> int:
        """Begins a round: takes one action per launched job. Returns how many of these jobs still occupy a slot.

        While the store is unavailable, actions that need the store are delayed.
        """
        self._store_is_down = False
        launched = self.jobs.launched()
        for job in launched:
            self._guarded(job, self._monitor)
        return len(self.jobs.launched()) if launched else 0

    def find_startable(self) -> list[StoredJob]:
        """Returns the queued jobs that may start now, oldest first."""
        moment = now()
        return [job for job in self.jobs.queued() if job.not_before is None or job.not_before <= moment]

    def start(self, job: StoredJob) -> bool:
        """Starts a queued job, and returns whether it occupies a slot now."""
        return self._guarded(job, self._start)

    def wind_down(self, *, force: bool) -> bool:
        """Asks launched jobs to write a checkpoint and end, or kills them. Returns whether a job was launched."""
        launched = self.jobs.launched()
        for job in launched:
            self._guarded(job, lambda job: self._wind_down(job, force=force))
        return bool(launched)

    def _wind_down(self, job: StoredJob, *, force: bool) -> bool:
        seen = self.launcher.observe(job.id, job.attempts, job.handle)
        if isinstance(seen, Exited):
            self._settle(job, seen, stopping=True)
            return False
        self._request_stop(job, force=force)
        return True

    def _guarded(self, job: StoredJob, action: Callable[[StoredJob], bool]) -> bool:
        """Runs an action under the job's request id, which its log lines show with the tenant."""
        token = logs.request_id.set(job.request_id)
        try:
            with logs.bound(tenant=self.store.tenant):
                return self._act(job, action)
        finally:
            logs.request_id.reset(token)

    def _act(self, job: StoredJob, action: Callable[[StoredJob], bool]) -> bool:
        """Runs an action; an error of one job delays that job only."""
        try:
            return action(job)
        except Conflict as error:  # raised before anything was started
            self.jobs.fail(job.id, str(error), error.reason)
        except VfmalignError as error:
            _log.warning("job_delayed", job=job.id, error=error)
            self._store_is_down = isinstance(error, StoreUnavailable)
            self._report_delay(job, error)
        return False

    def _report_delay(self, job: StoredJob, error: VfmalignError) -> None:
        """Records the reason why a job waits, in its current phase."""
        progress = Progress(phase=job.progress.phase, detail=f"waiting: {error}", reason=error.reason)
        with contextlib.suppress(VfmalignError):  # the database itself may be unavailable
            if job.progress != progress:
                self.jobs.set_progress(job.id, progress)

    # --- starting -----------------------------------------------------------------------------------------------------

    def _start(self, job: StoredJob) -> bool:
        """Launches an attempt of a queued job, and returns whether it occupies a slot now."""
        if self._complete_if_result_exists(job) or self._reuse_baseline(job):
            return False
        self._write_spec(job)
        self.store.delete(job_key(job.id, "failure.json"))  # of an earlier attempt
        job = self.jobs.begin(job.id)
        if job.state != "pending":
            return False
        try:
            spec_uri = self.store.uri(job_key(job.id, "spec.json"))
            seen = self.launcher.launch(
                job.id, job.attempts, spec_uri, self.jobs.confirm_leadership, origin=to_origin(job)
            )
        except Unavailable as error:
            delay_s = max(self.limits.retry_delay_s, error.retry_after_s or 0.0)
            progress = Progress(phase="queued", detail=f"could not be started: {error}", reason=error.reason)
            self.jobs.postpone(job.id, progress, delay_s=delay_s)
            _log.warning("job_not_started", job=job.id, error=error)
            return False
        self._record(job, seen, to_progress(job, seen))
        return True

    def _reuse_baseline(self, job: StoredJob) -> bool:
        """Returns whether another job trains, or has trained, the same network. Waits for its result or copies it.

        If this job has already begun to train a pretrained network, the encoder is named after the job, so it
        continues.
        """
        other = None if job.attempts and job.spec.network == "pretrained" else self.jobs.same_training(job)
        if other is None:
            return False
        if not other.finished:
            detail = f"waiting for job {other.id}, which trains the same baseline"
            progress = Progress(phase="queued", detail=detail, reason=BASELINE_IN_TRAINING)
            if job.progress != progress:
                self.jobs.set_progress(job.id, progress)
            return True
        try:
            self._copy_result(other, job)
        except (NotFound, PreconditionFailed, DataLoss) as error:
            _log.warning("baseline_trained_again", job=job.id, error=error)
            artifacts_recomputed.labels("job_result").inc()
            return False
        return self._complete_if_result_exists(
            job, detail=f"taken from job {other.id}, which trained the same baseline"
        )

    def _copy_result(self, other: StoredJob, job: StoredJob) -> None:
        """Copies the learning curve, then the result. The result still names the job that trained.

        Raises:
            NotFound: the other job has no result, or a figure of it is lost.
            PreconditionFailed: the result or a figure was changed.
            DataLoss: the encoder of a pretrained network is lost. The check needs it.
        """
        if other.result is None:
            raise NotFound("the database has no result of it", subject=f"job {other.id}")
        result = self.store.read(other.result.key, JobResult, other.result.sha256)
        if job.spec.network == "pretrained":
            check_encoder(self.store, result)
        for figure in result.figures:
            self.store.get(figure.key, sha256=figure.sha256)
        for point in other.curve:
            self.store.write(job_key(job.id, f"progress/{point.epoch:04d}.json"), point)
        # The result is written last: its existence completes the job, so the curve must be complete by then.
        self.store.put(job_key(job.id, "result.json"), result.to_json(), content_type="application/json")

    def _write_spec(self, job: StoredJob) -> None:
        key = job_key(job.id, "spec.json")
        expected = job.spec.to_json()
        if not self.store.put_if_absent(key, expected) and (stored := self.store.get(key)) != expected:
            digests = [hashlib.sha256(spec).hexdigest() for spec in (stored, expected)]
            _log.error("spec_differs", job=job.id, sha256=digests, bytes=[len(stored), len(expected)])
            raise Conflict("another job created it", subject=self.store.uri(key), remedy="choose another job id")
        # For the model that the job publishes. Not in the spec: another caller may continue a job of a lost database.
        provenance = Provenance(created_by=job.creator, created_at=job.created_at)
        record_provenance(self.store, job_key(job.id, ""), job.spec.digest(), provenance)

    # --- running ------------------------------------------------------------------------------------------------------

    def _monitor(self, job: StoredJob) -> bool:
        """Observes a launched job, and returns whether it still occupies a slot."""
        seen = self.launcher.observe(job.id, job.attempts, job.handle)
        if isinstance(seen, Exited):
            self._settle(job, seen, stopping=False)
            return False
        if not job.cancel_requested:
            self._stop_requests.pop(job.id, None)  # the cancellation may have been withdrawn
        else:
            requested = self._stop_requests.get(job.id, time.monotonic())
            self._request_stop(job, force=time.monotonic() - requested > self.limits.stop_grace_s)
        progress = to_progress(job, seen)
        try:
            self._read_progress(job)
        except StoreUnavailable as error:  # training may continue: it needs the store only once per epoch
            update = {"detail": f"{progress.detail}; {error}", "reason": progress.reason or error.reason}
            progress = progress.model_copy(update=update)
        self._record(job, seen, progress)
        return True

    def _record(self, job: StoredJob, seen: Running, progress: Progress) -> None:
        """Records a change of an attempt. Logs its launch once, and measures how long the job waited to start."""
        handle = seen.handle if seen.handle is not None else job.handle
        state = {True: "running", False: "pending", None: job.state}[seen.started]
        changed = not job.cancel_requested and job.progress != progress
        if changed or handle != job.handle or state != job.state:
            wait_s = self.jobs.record(job.id, handle, progress, started=seen.started)
            if wait_s is not None:
                metrics.job_queue_wait_seconds.observe(wait_s)
            if job.handle is None and handle is not None:
                _log.info("job_launched", job=job.id, attempt=job.attempts)

    def _record_unseen_start(self, job: StoredJob) -> None:
        """Records the start of a process that ended before it was observed."""
        if job.started_at is None:
            self._record(job, Running(job.handle), job.progress)

    def _request_stop(self, job: StoredJob, *, force: bool) -> None:
        if force or job.id not in self._stop_requests:
            self._stop_requests.setdefault(job.id, time.monotonic())
            self.launcher.stop(job.id, job.attempts, job.handle, force=force)

    def _read_progress(self, job: StoredJob) -> None:
        """Appends new points of the learning curve.

        Epochs are written in order, and a resumed attempt writes the same points again. The number of known points is
        therefore the next epoch.
        """
        points = []
        epoch = len(job.curve)
        while True:
            try:
                points.append(self.store.read(job_key(job.id, f"progress/{epoch:04d}.json"), JobProgress))
            except NotFound:
                break
            epoch += 1
        if points:
            self.jobs.add_points(job.id, points)

    # --- ending -------------------------------------------------------------------------------------------------------

    def _settle(self, job: StoredJob, seen: Exited, *, stopping: bool) -> None:
        """Ends a job or queues it again after its process ended, based on its result, its failure or its exit code."""
        # The result comes first: it makes the job succeed, whatever the process did afterwards.
        if self._complete_if_result_exists(job, seen.exit_code):
            return
        self._read_progress(job)
        self._stop_requests.pop(job.id, None)
        if seen.exit_code not in {None, TERMINATED}:  # TERMINATED may mean stopped before the start
            self._record_unseen_start(job)
        if job.cancel_requested:
            self.jobs.mark_cancelled(job.id, seen.exit_code)
            return
        failure, step = self._failure(job), self._checkpoint_step(job)
        if job.handle is None and seen == Exited(None):
            # The orchestrator was killed between `begin` and `record`, or the launcher did not answer.
            seen = replace(seen, message="its start was interrupted")
        before = job.setbacks.at(step)
        log_command = self.launcher.log_command(job.id, job.attempts)
        decision = decide(
            seen, failure, before, attempt=job.attempts, limits=self.limits, log_command=log_command, stopping=stopping
        )
        code = seen.exit_code if failure is None else failure.exit_code
        if isinstance(decision, GivenUp):
            self.jobs.fail(job.id, decision.message, decision.reason, code, decision.outcome)
            _log.warning("job_failed", job=job.id, exit_code=code)
        else:
            self.jobs.requeue(job.id, decision, exit_code=code)
            _log.warning("job_queued_again", job=job.id, exit_code=code, reason=decision.progress.reason)

    def _complete_if_result_exists(
        self, job: StoredJob, exit_code: int | None = None, detail: str = "finished"
    ) -> bool:
        """Ends a job if its result is stored, and returns whether it is.

        Only the result makes a job succeed, not the exit code of its process.
        """
        key = job_key(job.id, "result.json")
        try:
            data = self.store.get(key)
        except NotFound:
            return False
        self._read_progress(job)
        if job.attempts:
            self._record_unseen_start(job)
        self._stop_requests.pop(job.id, None)
        self.jobs.succeed(job.id, StoredFile.of(key, data), exit_code, detail)
        _log.info("job_succeeded", job=job.id)
        return True

    def _checkpoint_step(self, job: StoredJob) -> int:
        """Returns the step of the last checkpoint; -1 without one."""
        try:
            return int(self.store.get_json(job_key(job.id, "checkpoint/latest.json"))["step"])
        except (NotFound, PreconditionFailed, KeyError, TypeError, ValueError):
            return -1

    def _failure(self, job: StoredJob) -> JobFailure | None:
        try:
            return self.store.read(job_key(job.id, "failure.json"), JobFailure)
        except NotFound:
            return None


def to_origin(job: StoredJob) -> Origin:
    """Returns the origin of a job."""
    network = job.spec.network if job.spec.kind == "finetune" else ""
    return Origin(check=job.check_id, network=network, request_id=job.request_id)


def to_progress(job: StoredJob, seen: Running) -> Progress:
    """Returns the progress of a launched job: why its attempt waits, or that it trains."""
    if not seen.message:
        training = Progress(phase="training", detail=f"training, attempt {job.attempts}")
        return training if seen.started else job.progress
    phase = {True: "training", False: "pending", None: job.progress.phase}[seen.started]
    return Progress(phase=phase, detail=f"attempt {job.attempts}: {seen.message}", reason=seen.reason)
