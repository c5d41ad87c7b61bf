"""The repository of jobs: idempotency, states and attempts, on both databases."""

import itertools
from datetime import timedelta

import pytest

from vfmalign.client.messages.common import Progress
from vfmalign.client.messages.jobs import JobSpec
from vfmalign.core.domain.errors import Conflict, NotFound, PreconditionFailed
from vfmalign.core.domain.jobs import TrainingRecipe, TrainingSpec
from vfmalign.core.domain.stored_objects import StoredFile
from vfmalign.core.runtime import logs
from vfmalign.database.pagination import PageRequest
from vfmalign.database.tables import now
from vfmalign.finetuning.jobs.repository import JobRepository
from vfmalign.finetuning.jobs.retries import NextAttempt, Setbacks
from vfmalign.finetuning.lifecycle import NO_FREE_SLOT


def spec(name: str, seed: int = 0) -> TrainingSpec:
    return TrainingSpec(
        job_id=name, kind="finetune", dataset_id="demo", dataset_digest="0" * 64, architecture="profound_conv_micro",
        task="segmentation", seed=seed,
        recipe=TrainingRecipe(epochs=1, steps_per_epoch=1, batch_size=1, learning_rate=0.1),
    )  # fmt: skip


def request(seed: int = 0) -> JobSpec:
    return JobSpec(kind="finetune", dataset_id="demo", model_id="m", task="segmentation", seed=seed)


def add(jobs, name):
    return jobs.create(request(), spec(name))


def next_attempt(outcome, setbacks, delay_s=0.0):
    return NextAttempt(outcome, setbacks, delay_s, Progress(phase="queued", detail="killed"))


TRAINING = Progress(phase="training", detail="training, attempt 1")
WAITING = Progress(phase="pending", detail="its pod fits no node", reason="UNSCHEDULABLE")
REF = StoredFile(key="jobs/a/result.json", sha256="0" * 64, size_bytes=2)


def start(jobs, name):
    jobs.begin(name)
    return jobs.record(name, {"name": "x"}, TRAINING, started=True)


@pytest.fixture
def jobs(database):
    return JobRepository(database)


def names(page):
    return [job.id for job in page.items]


def test_same_id_and_body_returns_the_first_other_body_conflicts(jobs):
    first = jobs.create(request(), spec("a"))
    assert jobs.create(request(), spec("a", seed=9)) == first
    assert jobs.find("a", request()) == first
    assert first.request == request()
    for attempt in (lambda: jobs.create(request(1), spec("a")), lambda: jobs.find("a", request(1))):
        with pytest.raises(Conflict, match="a different request: it differs in seed"):
            attempt()
    assert jobs.find("b", request()) is None


def test_missing_job_is_not_found(jobs):
    for call in (jobs.get, jobs.cancel, jobs.begin):
        with pytest.raises(NotFound):
            call("nope")


def test_filter_by_state(jobs):
    for i in range(5):
        add(jobs, f"j{i}")
    start(jobs, "j1")
    jobs.cancel("j2")
    jobs.begin("j3")
    assert names(jobs.list(PageRequest(states=("running",)))) == ["j1"]
    assert names(jobs.list(PageRequest(states=("pending",)))) == ["j3"]
    assert names(jobs.list(PageRequest(states=("running", "cancelled")))) == ["j2", "j1"]
    assert jobs.counts() == {"queued": 2, "pending": 1, "running": 1, "succeeded": 0, "failed": 0, "cancelled": 1}
    assert [job.id for job in jobs.launched()] == ["j1", "j3"], "both may have a process"


@pytest.mark.parametrize("state", ["pending", "running"])
def test_cancel_ends_a_queued_job_marks_a_launched_one_and_leaves_a_finished_one(jobs, state):
    for name in "abc":
        add(jobs, name)
    assert jobs.cancel("a").state == "cancelled"
    jobs.begin("b") if state == "pending" else start(jobs, "b")
    assert jobs.cancel("b").cancel_requested
    assert jobs.get("b").state == state
    jobs.mark_cancelled("b", 143)
    assert jobs.get("b").state == "cancelled"
    jobs.begin("c")
    jobs.succeed("c", REF, 0)
    assert jobs.cancel("c").state == "succeeded"


def test_attempts_tell_what_ran(jobs):
    add(jobs, "a")
    jobs.begin("a")
    jobs.record("a", {"pid": 1, "started": 2.5}, TRAINING, started=True)
    assert jobs.get("a").handle == {"pid": 1, "started": 2.5}
    crashed = Setbacks(failures=1, interruptions=2, outages=3, step=7)
    jobs.requeue("a", next_attempt("retryable", crashed, delay_s=60), exit_code=139)
    waiting = jobs.get("a")
    assert (waiting.state, waiting.handle, waiting.setbacks) == ("queued", None, crashed)
    assert waiting.not_before > now() + timedelta(seconds=30)
    jobs.begin("a")
    jobs.requeue("a", next_attempt("interrupted", crashed), exit_code=143)
    jobs.begin("a")
    jobs.succeed("a", REF, 0)
    assert [(a.attempt, a.exit_code, a.outcome) for a in jobs.attempts("a")] == [
        (1, 139, "retryable"),
        (2, 143, "interrupted"),
        (3, 0, "succeeded"),
    ]
    assert all(one.finished_at <= two.started_at for one, two in itertools.pairwise(jobs.attempts("a")))


def test_progress_tells_what_a_job_does_until_it_is_cancelled(jobs):
    assert (add(jobs, "a").progress.phase, jobs.get("a").progress.reason) == ("queued", NO_FREE_SLOT)
    jobs.begin("a")
    for progress in (WAITING, TRAINING):
        jobs.record("a", {"name": "x"}, progress, started=None)
        assert jobs.get("a").progress == progress
    jobs.cancel("a")
    jobs.record("a", {"name": "y"}, WAITING, started=None)
    assert (jobs.get("a").progress.phase, jobs.get("a").handle) == ("stopping", {"name": "y"})


def test_a_launched_job_is_pending_until_its_processes_have_started_and_while_they_are_replaced(jobs):
    add(jobs, "a")
    assert (jobs.begin("a").state, jobs.get("a").started_at) == ("pending", None)
    states = []
    for started in (False, None, True, None, False, True):
        jobs.record("a", {"name": "x"}, WAITING, started=started)
        states.append(jobs.get("a").state)
    assert states == ["pending", "pending", "running", "running", "pending", "running"]


def test_the_wait_ends_once_at_the_first_start(jobs):
    add(jobs, "a")
    jobs.begin("a")
    assert jobs.record("a", {"name": "x"}, WAITING, started=False) is None
    wait_s = jobs.record("a", {"name": "x"}, TRAINING, started=True)
    first = jobs.get("a")
    assert wait_s == (first.started_at - first.created_at).total_seconds()
    jobs.requeue("a", next_attempt("interrupted", Setbacks(interruptions=1)), exit_code=137)
    assert start(jobs, "a") is None
    assert jobs.get("a").started_at == first.started_at


def test_the_id_of_the_request_that_created_it_is_kept(jobs):
    token = logs.request_id.set("request-0123")
    add(jobs, "a")
    logs.request_id.reset(token)
    assert jobs.get("a").request_id == "request-0123"


def test_a_failure_is_kept_beside_the_progress(jobs):
    add(jobs, "a")
    jobs.begin("a")
    jobs.fail("a", "not a volume", "BAD_VOLUME", 3)
    job = jobs.get("a")
    assert (job.progress.phase, job.progress.detail) == ("finished", "not a volume")
    assert (job.failure.reason, job.failure.message, job.failure.exit_code) == ("BAD_VOLUME", "not a volume", 3)
    assert jobs.attempts("a")[0].outcome == "permanent"


def test_the_first_end_stays(jobs):
    add(jobs, "a")
    jobs.cancel("a")
    jobs.succeed("a", REF, 0)
    jobs.fail("a", "too late", "INTERNAL")
    assert (jobs.get("a").state, jobs.get("a").failure) == ("cancelled", None)


def test_an_attempt_that_ends_after_its_job_was_cancelled_is_not_repeated(jobs):
    add(jobs, "a")
    jobs.begin("a")
    jobs.cancel("a")
    jobs.requeue("a", next_attempt("interrupted", Setbacks(interruptions=1)), exit_code=137)
    assert jobs.get("a").state == "cancelled"


def test_a_start_that_is_taken_back_leaves_no_attempt(jobs):
    add(jobs, "a")
    jobs.begin("a")
    jobs.postpone("a", Progress(phase="queued", detail="could not be started"), delay_s=60)
    waiting = jobs.get("a")
    assert (waiting.state, waiting.attempts, waiting.setbacks, waiting.started_at) == ("queued", 0, Setbacks(), None)
    assert waiting.progress.detail == "could not be started"
    assert waiting.not_before > now() + timedelta(seconds=30)
    assert jobs.attempts("a") == ()
    assert jobs.begin("a").attempts == 1
    assert [(a.attempt, a.outcome) for a in jobs.attempts("a")] == [(1, "running")]


def test_a_start_that_is_taken_back_ends_a_job_that_was_cancelled_meanwhile(jobs):
    add(jobs, "a")
    jobs.begin("a")
    jobs.cancel("a")
    jobs.postpone("a", Progress(phase="queued", detail="could not be started"), delay_s=0)
    assert jobs.get("a").state == "cancelled"


def test_begin_twice_is_one_attempt(jobs):
    add(jobs, "a")
    assert jobs.begin("a").attempts == 1
    assert jobs.begin("a").attempts == 1
    assert len(jobs.attempts("a")) == 1


def test_a_retry_keeps_the_history_and_counts_anew(jobs):
    add(jobs, "a")
    jobs.begin("a")
    jobs.requeue("a", next_attempt("retryable", Setbacks(2, 1, 1, step=40), delay_s=600), exit_code=139)
    jobs.begin("a")
    jobs.fail("a", "given up", "JOB_GIVEN_UP", 139, "retryable")
    again = jobs.retry("a")
    assert (again.state, again.failure, again.finished_at, again.not_before) == ("queued", None, None, None)
    assert (again.setbacks, again.attempts, again.retries) == (Setbacks(step=40), 2, 1)
    assert again.queued_at == again.retried_at > again.created_at
    assert jobs.queued() == (again,)
    assert jobs.begin("a").attempts == 3
    assert [a.outcome for a in jobs.attempts("a")] == ["retryable", "retryable", "running"]


def test_a_retry_is_idempotent_and_refuses_what_succeeded(jobs):
    first = add(jobs, "a")
    assert jobs.retry("a") == first, "it is queued"
    begun = jobs.begin("a")
    assert jobs.retry("a") == begun, "it is running"
    jobs.succeed("a", REF, 0)
    with pytest.raises(PreconditionFailed, match=r"a: the job has succeeded; create another one"):
        jobs.retry("a")
    add(jobs, "b")
    jobs.cancel("b")
    assert (jobs.retry("b").state, jobs.retry("b").retries) == ("queued", 1)
    with pytest.raises(NotFound):
        jobs.retry("c")


def test_a_retry_withdraws_a_cancellation_that_has_not_ended(jobs):
    add(jobs, "a")
    jobs.begin("a")
    jobs.record("a", {"pid": 1}, TRAINING, started=True)
    jobs.cancel("a")
    again = jobs.retry("a")
    assert (again.state, again.cancel_requested, again.handle) == ("running", False, {"pid": 1})
    jobs.mark_cancelled("a", 143)  # by a supervisor that read the job before
    assert (jobs.get("a").state, jobs.attempts("a")[0].outcome) == ("queued", "interrupted")
    jobs.succeed("a", REF)
    jobs.mark_cancelled("a", 143)
    assert jobs.get("a").state == "succeeded"


def test_an_attempt_from_before_a_retry_cannot_fail_the_job(jobs):
    add(jobs, "a")
    jobs.begin("a")
    jobs.cancel("a")
    jobs.retry("a")
    jobs.fail("a", "not a volume", "BAD_VOLUME", 3)
    assert (jobs.get("a").state, jobs.get("a").failure) == ("queued", None)
    jobs.begin("a")
    jobs.fail("a", "not a volume", "BAD_VOLUME", 3)
    assert jobs.get("a").state == "failed"
    assert [a.outcome for a in jobs.attempts("a")] == ["permanent", "permanent"]


def test_what_belongs_to_a_retried_item_follows_it_once(jobs):
    add(jobs, "a")
    jobs.begin("a")
    retried_at = now()
    assert not jobs.get("a").must_follow(retried_at), "it runs"
    assert jobs.cancel("a").must_follow(retried_at)
    assert not jobs.get("a").must_follow(None)
    jobs.mark_cancelled("a", 143)
    assert jobs.get("a").must_follow(retried_at)
    assert jobs.follow_retry("a", None).state == "cancelled"
    assert jobs.follow_retry("a", retried_at).state == "queued"
    assert not jobs.cancel("a").must_follow(retried_at), "cancelled after it was retried"


def test_what_succeeds_before_it_follows_a_retry_stays(jobs):
    add(jobs, "a")
    jobs.begin("a")
    jobs.cancel("a")
    retried_at = now()
    assert jobs.get("a").must_follow(retried_at)
    jobs.succeed("a", REF)  # its process had ended before it was told to
    assert jobs.follow_retry("a", retried_at).state == "succeeded"
    with pytest.raises(PreconditionFailed):
        jobs.retry("a")


def test_a_retried_baseline_waits_for_the_job_that_took_its_turn(jobs):
    for name in "ab":
        jobs.create(request(), spec(name), baseline="b" * 64)
    assert jobs.same_training(jobs.get("b")).id == "a"
    jobs.cancel("a")
    assert jobs.same_training(jobs.get("b")) is None
    jobs.retry("a")
    assert jobs.same_training(jobs.get("b")) is None
    assert jobs.same_training(jobs.get("a")).id == "b"
