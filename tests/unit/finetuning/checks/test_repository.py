"""The book of checks: idempotency, states and the record of stage runs, on both databases."""

import time

import pytest

from vfmalign.core.domain.errors import Conflict, NotFound
from vfmalign.finetuning.checks.reporting import stage_times
from vfmalign.finetuning.checks.repository import CheckRepository, ReportRefs, StageProgress
from vfmalign.finetuning.checks.request import CheckRequest
from vfmalign.finetuning.db.pagination import PageRequest
from vfmalign.finetuning.jobs.repository import StoredRef


def request(seed=0):
    return CheckRequest(model="m", dataset="d", task="segmentation", seed=seed)


@pytest.fixture
def book(database):
    return CheckRepository(database)


@pytest.fixture
def running(book):
    book.create("a", request())
    book.begin("a")
    return book


def outcomes(book):
    return [(run.stage, run.attempt, run.outcome) for run in book.stages("a")]


def test_create_is_idempotent_and_another_body_conflicts(book):
    first = book.create("a", request())
    assert book.create("a", request()) == first
    assert first.request == request()
    with pytest.raises(Conflict, match="another body"):
        book.create("a", request(seed=1))
    with pytest.raises(NotFound):
        book.get("b")


def test_list_filters_and_pages(book):
    for i in range(5):
        book.create(f"c{i}", request())
    book.begin("c1")
    page = book.list(PageRequest(size=2, states=("QUEUED",)))
    assert [check.id for check in page.items] == ["c4", "c3"]
    rest = book.list(PageRequest(size=2, states=("QUEUED",), token=page.next_token))
    assert [check.id for check in rest.items] == ["c2", "c0"]
    assert rest.next_token == ""
    assert [check.id for check in book.active()] == ["c1", "c0", "c2", "c3", "c4"], "begun ones first, then in order"


def test_what_a_check_says_is_kept_until_it_ends(running):
    progress = StageProgress(stage="mmd", done=1, total=4, unit="case", elapsed_s=0.5)
    running.say("a", "comparing", progress)
    assert (running.get("a").message, running.get("a").progress) == ("comparing", progress)
    running.fail("a", "the reason", "LEAKAGE")
    running.say("a", "too late")
    check = running.get("a")
    assert (check.state, check.message, check.reason, check.progress) == ("FAILED", "the reason", "LEAKAGE", None)


def test_cancel_ends_a_queued_check_marks_a_running_one_and_leaves_a_finished_one(running):
    running.create("queued", request())
    assert running.cancel("queued").state == "CANCELLED"
    assert running.cancel("a").cancel_requested
    running.say("a", "still busy")
    assert "cancelling" in running.get("a").message
    ref = StoredRef(key="k", sha256="0" * 64, size_bytes=1)
    running.succeed("a", ReportRefs(json_ref=ref, html_ref=ref))
    assert running.cancel("a").state == "SUCCEEDED"
    assert running.get("a").report.json_ref == ref


def test_an_interrupted_stage_is_told_from_a_finished_one(running):
    assert running.begin_stage("a", "mmd") == 1
    assert running.begin_stage("a", "mmd") == 2, "the first process was killed"
    running.end_stage("a", "mmd", "succeeded")
    running.end_stage("a", "mmd", "succeeded")  # found done by a third process: changes nothing
    assert outcomes(running) == [("mmd", 1, "interrupted"), ("mmd", 2, "succeeded")]
    assert all(run.seconds >= 0 for run in running.stages("a"))


def test_stage_times_run_from_the_first_beginning_to_the_end(running):
    running.begin_stage("a", "mmd")
    time.sleep(0.05)
    running.begin_stage("a", "mmd")
    running.end_stage("a", "mmd", "succeeded")
    running.begin_stage("a", "report")
    done, begun = stage_times(running.stages("a"))
    assert (done.stage, done.attempts) == ("mmd", 2)
    assert done.seconds >= 0.05
    assert (begun.stage, begun.seconds) == ("report", None)


def test_a_check_that_ends_closes_its_open_stages(running):
    running.begin_stage("a", "features_before")
    running.cancel("a")
    running.cancelled("a")
    assert outcomes(running) == [("features_before", 1, "cancelled")]
