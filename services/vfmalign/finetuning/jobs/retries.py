"""What follows the end of an attempt that left no result: another attempt, after which delay, or the end of the job.

Attempts that end count towards a limit as long as the training makes no progress between them; a checkpoint of a later
step than any before is progress, and the counts begin anew. Interruptions from outside have a limit of their own,
because such a kill looks like that of a machine that runs out of memory, which would repeat for ever. An outage of the
object store is waited out without limit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from vfmalign.client.messages.common import Progress
from vfmalign.core.domain.errors import Internal, StoreUnavailable
from vfmalign.core.domain.jobs import JobFailure
from vfmalign.finetuning.launchers.base import Exited, Outcome, classify, describe

INTERRUPTED = "INTERRUPTED"
"""`Progress.reason` of a job whose last attempt ended without fault of its own."""
RETRY_SCHEDULED = "RETRY_SCHEDULED"
"""`Progress.reason` of a job whose last attempt failed and which is tried again."""


@dataclass(frozen=True)
class Limits:
    """Limits of the supervisor.

    Attributes:
        max_running: jobs of all tenants that are pending or running at once.
        max_attempts: failures without progress in between after which a job fails.
        max_interruptions: interruptions without progress in between after which a job fails.
        retry_delay_s: pause before the second attempt in seconds; doubled for each further one.
        longest_retry_delay_s: upper limit of the pause.
        stop_grace_s: seconds from the request to stop to the kill.
    """

    max_running: int = 1
    max_attempts: int = 3
    max_interruptions: int = 20
    retry_delay_s: float = 5.0
    longest_retry_delay_s: float = 300.0
    stop_grace_s: float = 60.0

    def delay_s(self, retries: int) -> float:
        """Returns the pause before the next attempt, after this many earlier retries without progress."""
        doubled: float = self.retry_delay_s * 2 ** min(retries, 30)
        return min(doubled, self.longest_retry_delay_s)


@dataclass(frozen=True)
class Setbacks:
    """Ends of attempts since the training last made progress.

    Attributes:
        failures: failures of the training itself.
        interruptions: ends that came from outside or were not observed.
        outages: ends because the object store could not be used.
        step: step of the last checkpoint; -1 without one.
    """

    failures: int = 0
    interruptions: int = 0
    outages: int = 0
    step: int = -1

    def at(self, step: int) -> Setbacks:
        """Returns none at all where the checkpoint has reached a later step, else these."""
        return Setbacks(step=step) if step > self.step else self


@dataclass(frozen=True)
class NextAttempt:
    """The job is queued again and resumes from its checkpoint.

    Attributes:
        outcome: of the attempt that ended.
        setbacks: with that attempt counted.
        delay_s: earliest start from now, in seconds.
        progress: why the attempt ended.
    """

    outcome: Outcome
    setbacks: Setbacks
    delay_s: float
    progress: Progress


@dataclass(frozen=True)
class GivenUp:
    """The job fails.

    Attributes:
        outcome: of the attempt that ended.
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
        seen: how it ended.
        failure: what the process stored; it is final.
        before: setbacks before this end, at the present step.
        attempt: number of the attempt that ended.
        limits: of attempts and delays.
        log_command: shows the log of the attempt.
        stopping: whether the service asked the process to stop because it stops itself, which never counts.
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
        # The first one, such as a drained node, costs no time.
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
