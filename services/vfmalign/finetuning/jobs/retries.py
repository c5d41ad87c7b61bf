"""Decides what follows an attempt that left no result: another attempt after a delay, or the failure of the job.

Attempts that end without a result count towards a limit. A checkpoint with a higher step than all earlier checkpoints
resets the counts. Interruptions from outside have a separate limit. Interruptions need a limit because a machine that
runs out of memory may kill every attempt. Such a kill looks like a kill from outside. Outages of the object store have
no limit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from vfmalign.client.messages.common import Progress
from vfmalign.core.domain.errors import Internal, StoreUnavailable
from vfmalign.core.domain.jobs import JobFailure
from vfmalign.finetuning.launchers.base import Exited, Outcome, classify, describe

INTERRUPTED = "INTERRUPTED"
"""`Progress.reason` of a job after its last attempt was interrupted from outside."""
RETRY_SCHEDULED = "RETRY_SCHEDULED"
"""`Progress.reason` of a job after its last attempt failed and another one was scheduled."""


@dataclass(frozen=True)
class Limits:
    """Limits of the supervisor.

    Attributes:
        max_running: maximum number of pending and running jobs of all tenants together.
        max_attempts: number of attempts that may fail without progress in between before the job fails.
        max_interruptions: number of attempts that may be interrupted without progress in between before the job fails.
        retry_delay_s: pause before the second attempt, in seconds. The pause doubles with each further attempt.
        longest_retry_delay_s: upper limit of the pause.
        stop_grace_s: seconds between the request to stop a process and the kill.
    """

    max_running: int = 1
    max_attempts: int = 3
    max_interruptions: int = 20
    retry_delay_s: float = 5.0
    longest_retry_delay_s: float = 300.0
    stop_grace_s: float = 60.0

    def delay_s(self, retries: int) -> float:
        """Returns the pause before the next attempt, in seconds, from the number of retries without progress."""
        doubled: float = self.retry_delay_s * 2 ** min(retries, 30)
        return min(doubled, self.longest_retry_delay_s)


@dataclass(frozen=True)
class Setbacks:
    """Numbers of attempts that ended since the training last made progress, one number per cause.

    Attributes:
        failures: number of attempts that failed because of the training itself.
        interruptions: number of attempts that were ended from outside, or whose end was not observed.
        outages: number of attempts that ended because the object store was unavailable.
        step: step of the last checkpoint; -1 if there is no checkpoint.
    """

    failures: int = 0
    interruptions: int = 0
    outages: int = 0
    step: int = -1

    def at(self, step: int) -> Setbacks:
        """Returns zero setbacks if `step` is later than the recorded checkpoint. If not, returns these setbacks."""
        return Setbacks(step=step) if step > self.step else self


@dataclass(frozen=True)
class NextAttempt:
    """Decision to queue the job again. The job then resumes from its checkpoint.

    Attributes:
        outcome: outcome of the attempt that ended.
        setbacks: setbacks including that attempt.
        delay_s: minimum delay until the next attempt starts, in seconds.
        progress: why the attempt ended.
    """

    outcome: Outcome
    setbacks: Setbacks
    delay_s: float
    progress: Progress


@dataclass(frozen=True)
class GivenUp:
    """Decision that the job fails.

    Attributes:
        outcome: outcome of the attempt that ended.
        reason: UPPER_SNAKE_CASE constant.
        message: cause and remedy in one sentence.
    """

    outcome: Outcome
    reason: str
    message: str


def decide(
    seen: Exited,
    failure: JobFailure | None,
    before: Setbacks,
    *,
    attempt: int,
    limits: Limits,
    log_command: str,
    stopping: bool = False,
) -> NextAttempt | GivenUp:
    """Decides what follows the end of an attempt that left no result.

    Args:
        seen: how the attempt ended, as the launcher observed it.
        failure: failure that the process stored. It is final. None if it stored none.
        before: setbacks that were counted before this attempt ended; zero if this attempt has made progress.
        attempt: number of the attempt that ended.
        limits: limits of attempts and delays.
        log_command: command that shows the log of the attempt.
        stopping: whether the process was asked to stop because the service stops. Such a stop never counts as a
            setback.
    """
    see_log = f"see its log: `{log_command}`"
    if failure is not None:
        remedy = see_log if failure.reason == Internal.reason else failure.remedy
        return GivenUp("permanent", failure.reason, _sentence(failure.message, remedy))
    outcome, message = classify(seen.exit_code, seen.cause), seen.message or describe(seen.exit_code)
    if seen.cause == "limit":
        return GivenUp("permanent", "DEADLINE_EXCEEDED", message)
    if stopping and outcome in {"retryable", "interrupted", "unavailable"}:
        progress = Progress(phase="queued", detail="stopped with the service", reason=INTERRUPTED)
        return NextAttempt("interrupted", before, 0.0, progress)
    if outcome == "retryable":
        setbacks, reason = replace(before, failures=before.failures + 1), RETRY_SCHEDULED
        if setbacks.failures >= limits.max_attempts:
            message = f"given up after {setbacks.failures} attempts that failed without progress: {message}"
            return GivenUp(outcome, "JOB_GIVEN_UP", _sentence(message, see_log))
        delay_s = limits.delay_s(before.failures)
    elif outcome == "interrupted":
        setbacks, reason = replace(before, interruptions=before.interruptions + 1), INTERRUPTED
        if setbacks.interruptions >= limits.max_interruptions:
            message = f"given up after {setbacks.interruptions} interruptions without progress: {message}"
            return GivenUp(outcome, "JOB_GIVEN_UP", message)
        # The first interruption, such as a drained node, causes no delay.
        delay_s = limits.delay_s(before.interruptions - 1) if before.interruptions else 0.0
    elif outcome == "unavailable":
        setbacks, reason = replace(before, outages=before.outages + 1), StoreUnavailable.reason
        delay_s = limits.delay_s(before.outages)
    else:
        return GivenUp("permanent", "JOB_FAILED", message if seen.message else _sentence(message, see_log))
    soon = f" in {delay_s:g} s" if delay_s else ""
    detail = f"{message}; attempt {attempt + 1} resumes from the last checkpoint{soon}"
    return NextAttempt(outcome, setbacks, delay_s, Progress(phase="queued", detail=detail, reason=reason))


def _sentence(message: str, remedy: str) -> str:
    return f"{message}; {remedy}" if remedy else message
