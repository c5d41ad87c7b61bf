"""The book of experiments: idempotency and states, on both databases."""

import pytest

from vfmalign.client.messages.common import Progress
from vfmalign.core.domain.errors import Conflict, NotFound
from vfmalign.finetuning.db.pagination import PageRequest
from vfmalign.finetuning.db.repository import StoredRef
from vfmalign.finetuning.experiments.repository import ExperimentRefs, ExperimentRepository
from vfmalign.finetuning.experiments.request import ExperimentRequest, Fixed

FIXED = Fixed(dataset_digest="d" * 64, model_sha256=("a" * 64,))
REF = StoredRef(key="k", sha256="0" * 64, size_bytes=1)
REFS = ExperimentRefs(json_ref=REF, html_ref=REF, csv_ref=REF)


def request(seed=0):
    return ExperimentRequest(models=("m",), dataset="d", tasks=("segmentation",), seeds=(seed,))


@pytest.fixture
def book(database):
    return ExperimentRepository(database)


@pytest.fixture
def running(book):
    book.create("a", request(), FIXED)
    book.begin("a")
    return book


def test_create_is_idempotent_and_another_body_conflicts(book):
    first = book.create("a", request(), FIXED)
    other = Fixed(dataset_digest="e" * 64, model_sha256=("b" * 64,))
    assert book.create("a", request(), other) == first, "what was fixed first stays"
    assert book.find("a", request()) == first
    assert book.find("b", request()) is None
    assert first.cells[0].request.dataset_digest == "d" * 64
    for act in (lambda: book.create("a", request(1), FIXED), lambda: book.find("a", request(1))):
        with pytest.raises(Conflict, match="another body; choose another experiment id"):
            act()
    with pytest.raises(NotFound, match="see ListExperiments"):
        book.get("b")


def test_list_filters_and_pages(book):
    for i in range(5):
        book.create(f"s{i}", request(), FIXED)
    book.begin("s1")
    page = book.list(PageRequest(size=2, states=("queued",)))
    assert [experiment.id for experiment in page.items] == ["s4", "s3"]
    rest = book.list(PageRequest(size=2, states=("queued",), token=page.next_token))
    assert [experiment.id for experiment in rest.items] == ["s2", "s0"]
    assert rest.next_token == ""
    assert [experiment.id for experiment in book.active()] == ["s0", "s1", "s2", "s3", "s4"]


def test_it_begins_once_and_keeps_its_last_words(running):
    begun = running.get("a").started_at
    progress = Progress(phase="checks", detail="1 of 1 checks have ended")
    running.set_progress("a", progress)
    assert running.begin("a").started_at == begun
    assert running.get("a").progress == progress
    running.fail("a", "the reason", "NO_CHECK_SUCCEEDED")
    running.set_progress("a", progress)
    experiment = running.get("a")
    assert (experiment.state, experiment.failure.reason) == ("failed", "NO_CHECK_SUCCEEDED")
    assert experiment.progress == Progress(phase="finished", detail="the reason")
    assert running.active() == ()


def test_cancel_ends_a_queued_experiment_marks_a_running_one_and_leaves_a_finished_one(running):
    running.create("queued", request(), FIXED)
    assert running.cancel("queued").state == "cancelled"
    assert running.cancel("a").cancel_requested
    assert running.get("a").progress.phase == "stopping"
    running.mark_cancelled("a")
    running.create("done", request(), FIXED)
    running.begin("done")
    running.succeed("done", REFS, "finished")
    assert running.cancel("done").state == "succeeded"
    assert running.get("done").report == REFS


def test_the_first_end_stays(running):
    running.cancel("a")
    running.mark_cancelled("a")
    running.succeed("a", REFS, "finished")
    running.fail("a", "late", "INTERNAL")
    assert (running.get("a").state, running.get("a").report) == ("cancelled", None)
