"""Which ends of an attempt count against a job, and how long the next one waits."""

import pytest

from vfmalign.core.domain.jobs import JobFailure
from vfmalign.finetuning.jobs.retries import GivenUp, Limits, NextAttempt, Setbacks, decide
from vfmalign.finetuning.launchers.base import Exited

LIMITS = Limits(max_attempts=3, max_interruptions=6, retry_delay_s=5.0, longest_retry_delay_s=30.0)
LOG = "kubectl logs job/a-1"
CRASH, KILL, OUTAGE = Exited(139), Exited(137), Exited(69)


def after(*ends, stopping=False):
    """The decision after a job's attempts have ended like this, without progress in between."""
    setbacks, decision = Setbacks(), None
    for attempt, seen in enumerate(ends, 1):
        decision = decide(seen, None, setbacks, attempt=attempt, limits=LIMITS, log_command=LOG, stopping=stopping)
        setbacks = decision.setbacks if isinstance(decision, NextAttempt) else setbacks
    return decision


@pytest.mark.parametrize("seen", [CRASH, Exited(134), Exited(75), Exited(137, "out of memory", "memory")])
def test_failures_of_the_training_count(seen):
    assert after(seen).setbacks == Setbacks(failures=1)
    given_up = after(seen, seen, seen)
    assert (given_up.reason, given_up.outcome) == ("JOB_GIVEN_UP", "retryable")
    assert given_up.message.startswith("given up after 3 attempts that failed without progress: ")
    assert given_up.message.endswith("; see its log: `kubectl logs job/a-1`")


@pytest.mark.parametrize("seen", [KILL, Exited(143), Exited(None), Exited(76), Exited(139, "evicted", "platform")])
def test_interruptions_have_a_larger_limit_of_their_own(seen):
    assert after(seen).setbacks == Setbacks(interruptions=1)
    assert after(*[seen] * 5).setbacks == Setbacks(interruptions=5)
    given_up = after(*[seen] * 6)
    assert (given_up.reason, given_up.outcome) == ("JOB_GIVEN_UP", "interrupted")
    assert "6 interruptions without progress" in given_up.message


def test_the_end_of_an_outage_is_waited_for_without_limit():
    decision = after(*[OUTAGE] * 200)
    assert decision.setbacks == Setbacks(outages=200)
    assert (decision.outcome, decision.progress.reason) == ("unavailable", "STORE_UNAVAILABLE")
    assert decision.progress.detail == (
        "the training process could not use the object store; attempt 201 resumes from the last checkpoint in 30 s"
    )


def test_ends_of_one_kind_do_not_count_as_another():
    ends = [CRASH, KILL, OUTAGE, KILL, CRASH, OUTAGE]
    assert after(*ends).setbacks == Setbacks(failures=2, interruptions=2, outages=2)


def test_delays_double_up_to_a_limit_and_the_first_interruption_costs_none():
    assert [after(*[CRASH] * n).delay_s for n in (1, 2)] == [5, 10]
    assert [after(*[KILL] * n).delay_s for n in (1, 2, 3, 4, 5)] == [0, 5, 10, 20, 30]
    assert [after(*[OUTAGE] * n).delay_s for n in (1, 2, 3, 4, 90)] == [5, 10, 20, 30, 30]
    assert after(KILL).progress.detail.endswith("attempt 2 resumes from the last checkpoint")


def test_a_later_checkpoint_is_progress_after_which_counts_begin_anew():
    before = Setbacks(failures=2, interruptions=5, outages=9, step=40)
    assert before.at(40) == before.at(-1) == before
    assert before.at(41) == Setbacks(step=41)
    assert isinstance(decide(CRASH, None, before.at(40), attempt=9, limits=LIMITS, log_command=LOG), GivenUp)
    later = decide(CRASH, None, before.at(41), attempt=9, limits=LIMITS, log_command=LOG)
    assert later.setbacks == Setbacks(failures=1, step=41)


def test_stopping_with_the_service_counts_as_nothing():
    decision = after(*[Exited(143)] * 50, stopping=True)
    assert (decision.setbacks, decision.delay_s, decision.outcome) == (Setbacks(), 0.0, "interrupted")


@pytest.mark.parametrize("stopping", [False, True])
def test_final_ends_fail_the_job_at_once(stopping):
    failure = JobFailure(exit_code=3, reason="BAD_VOLUME", message="not a volume", remedy="replace it")
    decision = decide(Exited(3), failure, Setbacks(), attempt=1, limits=LIMITS, log_command=LOG, stopping=stopping)
    assert decision == GivenUp("permanent", "BAD_VOLUME", "not a volume; replace it")
    assert after(Exited(1), stopping=stopping).message.endswith("see its log: `kubectl logs job/a-1`")
    assert after(Exited(128, "no such file"), stopping=stopping).message == "no such file"
    assert after(Exited(143, "too long", "limit"), stopping=stopping).reason == "DEADLINE_EXCEEDED"


def test_an_internal_error_leads_to_the_log():
    failure = JobFailure(exit_code=1, reason="INTERNAL", message="the training process failed")
    decision = decide(Exited(1), failure, Setbacks(), attempt=1, limits=LIMITS, log_command=LOG)
    assert decision.message == "the training process failed; see its log: `kubectl logs job/a-1`"
