"""What the repository of jobs counts for metrics, on both databases."""

from datetime import UTC, datetime

import pytest
from tests.unit.finetuning.jobs.test_repository import REF, WAITING, add, next_attempt, start

from vfmalign.client.messages.common import Progress
from vfmalign.core.rpc.access.identity import Identity, current_identity
from vfmalign.core.runtime.metrics import REGISTRY
from vfmalign.finetuning import metrics
from vfmalign.finetuning.jobs.repository import BASELINE_IN_TRAINING, JobRepository
from vfmalign.finetuning.jobs.retries import Setbacks
from vfmalign.finetuning.lifecycle import NO_FREE_SLOT


@pytest.fixture
def jobs(database):
    return JobRepository(database)


def test_what_ended_is_counted_once_and_only_if_it_was_stored(database, jobs):
    def count(state):
        fault = "request" if state == "failed" else "none"
        labels = {"kind": "job", "state": state, "fault": fault}
        return REGISTRY.get_sample_value("vfmalign_operations_ended_total", labels)

    def refuse(_):
        raise RuntimeError("another process leads")

    failed, cancelled = count("failed"), count("cancelled")
    for name in ("a", "b", "c"):
        add(jobs, name)
    start(jobs, "a")
    jobs.fail("a", "it cannot be read", "BROKEN")
    jobs.fail("a", "it cannot be read", "BROKEN")
    jobs.cancel("b")
    with pytest.raises(RuntimeError):
        JobRepository(database.guarded_by(refuse)).fail("c", "it cannot be read", "BROKEN")
    with database.session() as session:
        jobs._end(session, jobs._row(session, "c"), "failed", "rolled back")
        session.rollback()
    assert (count("failed"), count("cancelled")) == (failed + 1, cancelled + 1)
    assert jobs.counts() == {"queued": 1, "pending": 0, "running": 0, "succeeded": 0, "failed": 1, "cancelled": 1}


@pytest.mark.parametrize(
    ("reason", "fault"),
    [
        ("BAD_OPTION", "request"),
        ("NOT_FOUND", "request"),
        ("INTERNAL", "system"),
        ("JOB_GIVEN_UP", "system"),
        ("BUCKET_NOT_FOUND", "system"),
    ],
)
def test_a_failure_counts_for_the_side_that_has_to_act(jobs, reason, fault):
    def count(one):
        labels = {"kind": "job", "state": "failed", "fault": one}
        return REGISTRY.get_sample_value("vfmalign_operations_ended_total", labels)

    before = {one: count(one) for one in ("request", "system")}
    add(jobs, "a")
    start(jobs, "a")
    jobs.fail("a", "it ended", reason)
    assert {one: count(one) - before[one] for one in before} == {"request": 0, "system": 0} | {fault: 1}


def test_every_attempt_that_ends_is_counted_with_its_outcome(jobs):
    def counts():
        name = "vfmalign_job_attempts_ended_total"
        return [REGISTRY.get_sample_value(name, {"outcome": one}) for one in ("interrupted", "retryable", "succeeded")]

    before = counts()
    add(jobs, "a")
    for outcome in ("interrupted", "interrupted", "retryable"):
        start(jobs, "a")
        jobs.requeue("a", next_attempt(outcome, Setbacks()), exit_code=None)
    start(jobs, "a")
    jobs.succeed("a", REF)
    jobs.succeed("a", REF)
    assert [after - number for after, number in zip(counts(), before, strict=True)] == [2, 1, 1]


def test_waiting_jobs_are_counted_by_what_they_wait_for(jobs):
    for name in ("a", "b", "c", "d"):
        add(jobs, name)
    start(jobs, "a")
    jobs.begin("b")
    assert jobs.count_waiting() == {NO_FREE_SLOT: 2}, "b is pending and waits for nothing"
    jobs.record("b", {"name": "x"}, WAITING, started=False)
    assert jobs.count_waiting() == {NO_FREE_SLOT: 2, "UNSCHEDULABLE": 1}


def test_the_longest_wait_is_that_of_a_job_that_has_not_started(jobs):
    assert jobs.find_longest_wait() is None
    started, waiting, later = (add(jobs, name) for name in ("a", "b", "c"))
    assert jobs.find_longest_wait() == started.created_at
    start(jobs, "a")
    jobs.requeue("a", next_attempt("interrupted", Setbacks()), exit_code=None)
    assert jobs.find_longest_wait() == waiting.created_at, "a has started before"
    jobs.begin("b")
    assert jobs.find_longest_wait() == waiting.created_at, "b is pending"
    jobs.set_progress("b", Progress(phase="queued", reason=BASELINE_IN_TRAINING))
    assert jobs.find_longest_wait() == later.created_at, "b will have the result of another one"
    jobs.cancel("c")
    retried = jobs.retry("c")
    assert jobs.find_longest_wait() == retried.retried_at > later.created_at


def test_the_longest_wait_of_all_tenants_is_exported():
    def read():
        return REGISTRY.get_sample_value("vfmalign_jobs_longest_wait_timestamp_seconds")

    metrics.export_longest_wait([None, datetime.fromtimestamp(20, UTC), datetime.fromtimestamp(10, UTC)])
    assert read() == 10
    metrics.export_longest_wait([None, None])
    assert read() == 0
    metrics.export_longest_wait([datetime.fromtimestamp(10, UTC)])
    metrics.clear_states()
    assert read() == 0, "the next leader exports it"


def test_a_reason_for_which_no_job_waits_any_longer_is_zero():
    metrics.count_waiting_jobs([{"UNSCHEDULABLE": 1}, {"UNSCHEDULABLE": 2, NO_FREE_SLOT: 1}])
    metrics.count_waiting_jobs([{NO_FREE_SLOT: 1}, {}])
    read = [
        REGISTRY.get_sample_value("vfmalign_jobs_waiting", {"reason": one}) for one in (NO_FREE_SLOT, "UNSCHEDULABLE")
    ]
    assert read == [1, 0]
    metrics.clear_states()


def test_the_busiest_caller_of_the_tenant_counts_for_the_quota(database, jobs):
    assert jobs.count_of_busiest_caller() == 0
    other = JobRepository(database.of_tenant("ward-7"))
    for repository, names_of in ((jobs, {"ada": "abc", "bob": "de", "": "fghi"}), (other, {"ada": "klmn"})):
        for subject, letters in names_of.items():
            identity = Identity(subject, "https://login.example", frozenset(), frozenset()) if subject else None
            token = current_identity.set(identity)
            for name in letters:
                add(repository, name)
            current_identity.reset(token)
    jobs.cancel("a")
    assert jobs.count_of_busiest_caller() == 2
    assert other.count_of_busiest_caller() == 4
