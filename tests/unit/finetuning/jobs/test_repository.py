"""The book of jobs: idempotency, paging, states and attempts, on both databases."""

import itertools
from datetime import timedelta

import pytest

from vfmalign.core.domain.artifacts import TrainingRecipe, TrainingSpec
from vfmalign.core.domain.errors import BadOption, Conflict, NotFound
from vfmalign.finetuning.db.database import now
from vfmalign.finetuning.db.pagination import PageRequest
from vfmalign.finetuning.jobs import repository as jobs_module
from vfmalign.finetuning.jobs.repository import JobRepository, StoredRef
from vfmalign.finetuning.jobs.request import JobRequest


def spec(name: str, seed: int = 0) -> TrainingSpec:
    return TrainingSpec(
        id=name, kind="finetune", dataset="demo", dataset_digest="0" * 64, architecture="profound_conv_micro",
        task="segmentation", seed=seed,
        recipe=TrainingRecipe(epochs=1, steps_per_epoch=1, batch_size=1, learning_rate=0.1),
    )  # fmt: skip


def request(seed: int = 0) -> JobRequest:
    return JobRequest(kind="finetune", dataset="demo", model="m", task="segmentation", seed=seed)


def add(book, name):
    return book.create(request(), spec(name))


REF = StoredRef(key="jobs/a/result.json", sha256="0" * 64, size_bytes=2)


@pytest.fixture
def book(database):
    return JobRepository(database)


def names(page):
    return [job.id for job in page.items]


def test_same_id_and_body_returns_the_first_other_body_conflicts(book):
    first = book.create(request(), spec("a"))
    assert book.create(request(), spec("a", seed=9)) == first
    assert book.find("a", request()) == first
    assert first.request == request()
    for attempt in (lambda: book.create(request(1), spec("a")), lambda: book.find("a", request(1))):
        with pytest.raises(Conflict, match="another body"):
            attempt()
    assert book.find("b", request()) is None


def test_missing_job_is_not_found(book):
    for call in (book.get, book.cancel, book.begin):
        with pytest.raises(NotFound):
            call("nope")


def test_pages_are_newest_first_complete_and_stable_while_jobs_are_added(book):
    for i in range(7):
        add(book, f"j{i}")
    first = book.list(PageRequest(size=3))
    add(book, "late")
    second = book.list(PageRequest(size=3, token=first.next_token))
    third = book.list(PageRequest(size=3, token=second.next_token))
    assert names(first) + names(second) + names(third) == [f"j{i}" for i in reversed(range(7))]
    assert third.next_token == ""


def test_pages_hold_jobs_created_in_the_same_microsecond(book, monkeypatch):
    moment = now()
    monkeypatch.setattr(jobs_module, "now", lambda: moment)
    for i in range(5):
        add(book, f"j{i}")
    seen, token = [], ""
    for _ in range(5):
        page = book.list(PageRequest(size=2, token=token))
        seen += names(page)
        token = page.next_token
        if not token:
            break
    assert seen == ["j4", "j3", "j2", "j1", "j0"]


def test_exactly_full_last_page_has_no_token(book):
    for i in range(4):
        add(book, f"j{i}")
    first = book.list(PageRequest(size=2))
    assert book.list(PageRequest(size=2, token=first.next_token)).next_token == ""


def test_filter_by_state(book):
    for i in range(4):
        add(book, f"j{i}")
    book.begin("j1")
    book.cancel("j2")
    assert names(book.list(PageRequest(states=("RUNNING",)))) == ["j1"]
    assert names(book.list(PageRequest(states=("RUNNING", "CANCELLED")))) == ["j2", "j1"]
    assert book.counts() == {"QUEUED": 2, "RUNNING": 1, "SUCCEEDED": 0, "FAILED": 0, "CANCELLED": 1}


@pytest.mark.parametrize("size", [-1, 1001])
def test_page_size_out_of_range(book, size):
    with pytest.raises(BadOption, match="page_size"):
        book.list(PageRequest(size=size))


@pytest.mark.parametrize("token", ["x", "!!!", "bm9wZQ==", "WzEsMiwzXQ==", "e30="])
def test_foreign_page_token(book, token):
    with pytest.raises(BadOption, match="page_token"):
        book.list(PageRequest(token=token))


def test_token_of_another_filter_is_refused(book):
    for i in range(3):
        add(book, f"j{i}")
    token = book.list(PageRequest(size=1)).next_token
    with pytest.raises(BadOption, match="page_token"):
        book.list(PageRequest(size=1, token=token, states=("QUEUED",)))


def test_cancel_ends_a_queued_job_marks_a_running_one_and_leaves_a_finished_one(book):
    for name in "abc":
        add(book, name)
    assert book.cancel("a").state == "CANCELLED"
    book.begin("b")
    assert book.cancel("b").cancel_requested
    assert book.get("b").state == "RUNNING"
    book.cancelled("b", 143)
    assert book.get("b").state == "CANCELLED"
    book.begin("c")
    book.succeed("c", REF, 0)
    assert book.cancel("c").state == "SUCCEEDED"


def test_attempts_tell_what_ran(book):
    add(book, "a")
    book.begin("a")
    book.record("a", {"pid": 1, "started": 2.5})
    assert book.get("a").handle == {"pid": 1, "started": 2.5}
    book.requeue("a", "killed", exit_code=137, delay_s=60, counted=True)
    waiting = book.get("a")
    assert (waiting.state, waiting.handle, waiting.failures) == ("QUEUED", None, 1)
    assert waiting.not_before > now() + timedelta(seconds=30)
    book.begin("a")
    book.requeue("a", "stopped with the service", exit_code=143, delay_s=0, counted=False)
    book.begin("a")
    book.succeed("a", REF, 0)
    assert [(a.attempt, a.exit_code, a.outcome) for a in book.attempts("a")] == [
        (1, 137, "retryable"),
        (2, 143, "interrupted"),
        (3, 0, "succeeded"),
    ]
    assert all(one.finished_at <= two.started_at for one, two in itertools.pairwise(book.attempts("a")))
    assert book.get("a").failures == 1


def test_what_a_running_job_waits_for_is_its_message(book):
    add(book, "a")
    book.begin("a")
    book.record("a", {"name": "x"}, "no node takes its pod")
    assert book.get("a").message == "attempt 1: no node takes its pod"
    book.record("a", {"name": "x"})
    assert book.get("a").message == "training, attempt 1"
    book.cancel("a")
    book.record("a", {"name": "x"}, "no node takes its pod")
    assert book.get("a").message.startswith("cancelling")


def test_a_start_that_is_taken_back_leaves_no_attempt(book):
    add(book, "a")
    book.begin("a")
    book.postpone("a", "could not be started", delay_s=60)
    waiting = book.get("a")
    assert (waiting.state, waiting.attempts, waiting.failures, waiting.started_at) == ("QUEUED", 0, 0, None)
    assert waiting.message == "could not be started"
    assert waiting.not_before > now() + timedelta(seconds=30)
    assert book.attempts("a") == ()
    assert book.begin("a").attempts == 1
    assert [(a.attempt, a.outcome) for a in book.attempts("a")] == [(1, "running")]


def test_a_start_that_is_taken_back_ends_a_job_that_was_cancelled_meanwhile(book):
    add(book, "a")
    book.begin("a")
    book.cancel("a")
    book.postpone("a", "could not be started", delay_s=0)
    assert book.get("a").state == "CANCELLED"


def test_begin_twice_is_one_attempt(book):
    add(book, "a")
    assert book.begin("a").attempts == 1
    assert book.begin("a").attempts == 1
    assert len(book.attempts("a")) == 1
