"""Moves jobs along: starts queued ones, watches running ones, reads how they ended.

One call of `tick` compares the book, the launcher and the artifacts, and does what is missing; it may be killed at any
line and called again. Knows nothing of gRPC, checks or how a process is started.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from vfmalign.core.domain.artifacts import JobFailure, JobProgress, job_key
from vfmalign.core.domain.errors import Conflict, DigestMismatch, NotFound, Unavailable, VfmalignError
from vfmalign.core.runtime import logs, metrics
from vfmalign.core.storage.object_store import ObjectStore
from vfmalign.finetuning.db.database import now
from vfmalign.finetuning.jobs.repository import Job, JobRepository, StoredRef, running_message
from vfmalign.finetuning.launchers.base import Exited, Launcher, classify, describe

_LAST_LOOK_S = 30.0

_log = logs.get(__name__)


@dataclass(frozen=True)
class Limits:
    """What the supervisor allows.

    Attributes:
        max_running: jobs whose processes live at once.
        max_attempts: retryable failures after which a job is given up.
        retry_delay_s: pause before the second attempt; doubled for each further one.
        stop_grace_s: from the request to stop to the kill.
    """

    max_running: int = 1
    max_attempts: int = 3
    retry_delay_s: float = 5.0
    stop_grace_s: float = 60.0


@dataclass
class Supervisor:
    """Owns the launcher; not thread-safe: call it from one thread at a time."""

    book: JobRepository
    store: ObjectStore
    launcher: Launcher
    limits: Limits
    _asked: dict[str, float] = field(default_factory=dict)

    def tick(self) -> None:
        """One round over all jobs. A store that is down delays what needs it and harms nothing."""
        for job in self.book.running():
            self._guarded(job, self._watch)
        free = self.limits.max_running - len(self.book.running())
        moment = now()
        for job in self.book.queued():
            if free <= 0:
                break
            if job.not_before is None or job.not_before <= moment:
                free -= int(self._guarded(job, self._start))
        for state, count in self.book.counts().items():
            metrics.jobs.labels(state=state.lower()).set(count)

    def stop_all(self, poll_s: float = 0.1) -> None:
        """Lets every running job checkpoint and end, and queues it again for the next start of the service.

        A job that cannot be seen to end stays as it is: the next start finds out what became of it.
        """
        end = time.monotonic() + self.limits.stop_grace_s
        while (running := self.book.running()) and time.monotonic() < end + _LAST_LOOK_S:
            for job in running:
                self._guarded(job, lambda job: self._wind_down(job, force=time.monotonic() > end))
            time.sleep(poll_s)

    def _wind_down(self, job: Job, *, force: bool) -> bool:
        seen = self.launcher.observe(job.id, job.attempts, job.handle)
        if isinstance(seen, Exited):
            self._settle(job, seen, stopping=True)
            return False
        self._ask_to_stop(job, force=force)
        return True

    def _guarded(self, job: Job, action: Callable[[Job], bool]) -> bool:
        try:
            return action(job)
        except Conflict as error:  # raised before anything was started
            self.book.fail(job.id, str(error), error.reason)
        except VfmalignError as error:
            _log.warning("job_delayed", job=job.id, error=str(error))
        return False

    def _start(self, job: Job) -> bool:
        """Starts a queued job's process; True where one runs now."""
        if self._finished(job) or self._shares(job):
            return False
        self._write_spec(job)
        self.store.delete(job_key(job.id, "failure.json"))  # of an earlier attempt
        job = self.book.begin(job.id)
        if job.state != "RUNNING":
            return False
        _log.info("job_starts", job=job.id, attempt=job.attempts)
        try:
            seen = self.launcher.launch(job.id, job.attempts, self.store.uri(job_key(job.id, "spec.json")))
        except Unavailable as error:
            delay_s = max(self.limits.retry_delay_s, error.retry_after_s or 0.0)
            self.book.postpone(job.id, f"could not be started: {error}", delay_s=delay_s)
            _log.warning("job_not_started", job=job.id, error=str(error))
            return False
        if job.attempts == 1:
            metrics.job_queue_wait_seconds.observe((now() - job.created_at).total_seconds())
        self.book.record(job.id, seen.handle, seen.message)
        return True

    def _shares(self, job: Job) -> bool:
        """Whether another job trains, or has trained, the same: this one then waits for its result, or takes it."""
        other = self.book.same_training(job)
        if other is None:
            return False
        if not other.finished:
            words = f"waiting for job {other.id}, which trains the same baseline"
            if job.message != words:
                self.book.wait(job.id, words)
            return True
        try:
            self._copy(other, job)
        except (NotFound, DigestMismatch) as error:
            _log.warning("baseline_trained_again", job=job.id, error=str(error))
            return False
        return self._finished(job, message=f"taken from job {other.id}, which trained the same baseline")

    def _copy(self, other: Job, job: Job) -> None:
        """Copies the learning curve and then the result, which goes on naming the job that trained."""
        if other.result is None:
            raise NotFound("no result is recorded", subject=f"job {other.id}")
        result = self.store.get(other.result.key, sha256=other.result.sha256)
        for point in other.curve:
            self.store.write(job_key(job.id, f"progress/{point.epoch:04d}.json"), point)
        self.store.put(job_key(job.id, "result.json"), result, content_type="application/json")

    def _watch(self, job: Job) -> bool:
        seen = self.launcher.observe(job.id, job.attempts, job.handle)
        if isinstance(seen, Exited):
            self._settle(job, seen, stopping=False)
            return False
        handle = seen.handle if seen.handle is not None else job.handle
        news = not job.cancel_requested and job.message != running_message(job.attempts, seen.message)
        if news or handle != job.handle:
            self.book.record(job.id, handle, seen.message)
        if job.cancel_requested:
            asked = self._asked.get(job.id, time.monotonic())
            self._ask_to_stop(job, force=time.monotonic() - asked > self.limits.stop_grace_s)
        self._read_progress(job)
        return True

    def _settle(self, job: Job, seen: Exited, *, stopping: bool) -> None:
        """Reads how a process ended: by its result, its failure, or the code alone."""
        if self._finished(job, seen.exit_code):
            return
        self._read_progress(job)
        self._asked.pop(job.id, None)
        if job.cancel_requested:
            self.book.cancelled(job.id, seen.exit_code)
            return
        failure = self._failure(job)
        code = failure.exit_code if failure is not None else seen.exit_code
        words = _sentence(failure.message, failure.remedy) if failure is not None else seen.message or describe(code)
        if failure is None and seen.cause == "limit":
            self._fail(job, words, "DEADLINE_EXCEEDED", code)
        elif failure is None and seen.cause == "platform":
            self._again(job, f"{words}; the next attempt resumes from the last checkpoint", code)
        elif classify(code) != "retryable":
            remedy = "" if failure is not None or seen.message else "; see its log"
            self._fail(job, f"{words}{remedy}", failure.reason if failure else "JOB_FAILED", code)
        elif stopping:
            self._again(job, "stopped with the service", code)
        elif job.handle is None and code is None:
            self._again(job, "its start was interrupted", code)  # we were killed, or unheard: not the job's fault
        else:
            self._retry(job, words, code)

    def _fail(self, job: Job, words: str, reason: str, code: int | None) -> None:
        self.book.fail(job.id, words, reason, code)
        _log.warning("job_failed", job=job.id, exit_code=code)

    def _again(self, job: Job, words: str, code: int | None) -> None:
        """Another attempt, for reasons that do not count against the job."""
        self.book.requeue(job.id, words, exit_code=code, delay_s=0.0, counted=False)
        _log.warning("job_interrupted", job=job.id, exit_code=code, reason=words)

    def _retry(self, job: Job, words: str, code: int | None) -> None:
        failures = job.failures + 1
        if failures >= self.limits.max_attempts:
            self.book.fail(job.id, f"given up after {failures} attempts: {words}", "JOB_GIVEN_UP", code)
            return
        delay = self.limits.retry_delay_s * 2**job.failures
        message = f"{words}; attempt {job.attempts + 1} resumes from the last checkpoint in {delay:g} s"
        self.book.requeue(job.id, message, exit_code=code, delay_s=delay, counted=True)
        _log.warning("job_retried", job=job.id, exit_code=code, failures=failures)

    def _finished(self, job: Job, exit_code: int | None = None, message: str = "finished") -> bool:
        """Whether the result is there; it is what makes a job done, whatever its process said."""
        key = job_key(job.id, "result.json")
        try:
            data = self.store.get(key)
        except NotFound:
            return False
        self._read_progress(job)
        self._asked.pop(job.id, None)
        ref = StoredRef(key=key, sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
        self.book.succeed(job.id, ref, exit_code, message)
        _log.info("job_succeeded", job=job.id)
        return True

    def _failure(self, job: Job) -> JobFailure | None:
        try:
            return self.store.read(job_key(job.id, "failure.json"), JobFailure)
        except NotFound:
            return None

    def _write_spec(self, job: Job) -> None:
        key = job_key(job.id, "spec.json")
        if not self.store.put_if_absent(key, job.spec.to_json()) and self.store.get(key) != job.spec.to_json():
            raise Conflict("holds another spec", subject=self.store.uri(key), remedy="choose another job id")

    def _ask_to_stop(self, job: Job, *, force: bool) -> None:
        if force or job.id not in self._asked:
            self._asked.setdefault(job.id, time.monotonic())
            self.launcher.stop(job.id, job.attempts, job.handle, force=force)

    def _read_progress(self, job: Job) -> None:
        """Appends what is new of the learning curve; epochs are written in order, and a resumed one again the same."""
        points = []
        epoch = len(job.curve)
        while True:
            try:
                points.append(self.store.read(job_key(job.id, f"progress/{epoch:04d}.json"), JobProgress))
            except NotFound:
                break
            epoch += 1
        if points:
            self.book.add_points(job.id, points)


def _sentence(message: str, remedy: str) -> str:
    return f"{message}; {remedy}" if remedy else message
