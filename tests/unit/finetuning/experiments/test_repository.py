"""Repository of experiments: idempotency and states, on both databases."""

import pytest

from vfmalign.client.messages.common import Progress
from vfmalign.client.messages.experiments import ExperimentSpec
from vfmalign.core.domain.errors import Conflict, NotFound, PreconditionFailed
from vfmalign.core.domain.stored_objects import StoredFile
from vfmalign.database.pagination import PageRequest
from vfmalign.finetuning.checks.repository import CheckRepository, ReportRefs
from vfmalign.finetuning.experiments.repository import ExperimentRefs, ExperimentRepository
from vfmalign.finetuning.experiments.request import PinnedInputs

PINNED = PinnedInputs(dataset_digest="d" * 64, model_sha256=("a" * 64,), primary_metrics=("lesion_dice",))
REF = StoredFile(key="k", sha256="0" * 64, size_bytes=1)
REFS = ExperimentRefs(json_ref=REF, html_ref=REF, csv_ref=REF)


def make_spec(seed=0):
    return ExperimentSpec(
        model_ids=("m",), dataset_id="d", tasks=("segmentation",), seeds=(seed,), permutations=100,
        bootstrap_resamples=100, interval_level=0.95, max_running=1,
    )  # fmt: skip


@pytest.fixture
def experiments(database):
    return ExperimentRepository(database)


@pytest.fixture
def running(experiments):
    experiments.create("a", make_spec(), PINNED)
    experiments.begin("a")
    return experiments


def test_create_is_idempotent_and_another_body_conflicts(experiments):
    first = experiments.create("a", make_spec(), PINNED)
    other = PinnedInputs(dataset_digest="e" * 64, model_sha256=("b" * 64,), primary_metrics=("lesion_dice",))
    assert experiments.create("a", make_spec(), other) == first, "the inputs pinned first stay"
    assert experiments.find("a", make_spec()) == first
    assert experiments.find("b", make_spec()) is None
    assert first.cells[0].request.dataset_digest == "d" * 64
    for act in (lambda: experiments.create("a", make_spec(1), PINNED), lambda: experiments.find("a", make_spec(1))):
        with pytest.raises(Conflict, match="a different request: it differs in seeds; choose another experiment id"):
            act()
    with pytest.raises(NotFound, match="run `vfmalign experiments list`, or call ListExperiments"):
        experiments.get("b")


def test_list_filters_and_pages(experiments):
    for i in range(5):
        experiments.create(f"s{i}", make_spec(), PINNED)
    experiments.begin("s1")
    page = experiments.list(PageRequest(size=2, states=("queued",)))
    assert [experiment.id for experiment in page.items] == ["s4", "s3"]
    rest = experiments.list(PageRequest(size=2, states=("queued",), token=page.next_token))
    assert [experiment.id for experiment in rest.items] == ["s2", "s0"]
    assert rest.next_token == ""
    assert [experiment.id for experiment in experiments.active()] == ["s0", "s1", "s2", "s3", "s4"]


def test_lists_find_every_model_of_an_experiment(experiments):
    spec = make_spec().model_copy(update={"model_ids": ("m_1", "other")})
    experiments.create("two", spec, PINNED)
    experiments.create("one", make_spec(), PINNED)
    for model_id, names in (("m", ["one"]), ("m_1", ["two"]), ("other", ["two"]), ("mx1", []), ("othe", [])):
        assert [one.id for one in experiments.list(PageRequest(model_id=model_id)).items] == names
    assert [one.id for one in experiments.list(PageRequest(dataset_id="d")).items] == ["one", "two"]


def test_it_begins_once_and_keeps_its_last_progress(running):
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
    running.create("queued", make_spec(), PINNED)
    assert running.cancel("queued").state == "cancelled"
    assert running.cancel("a").cancel_requested
    assert running.get("a").progress.phase == "stopping"
    running.mark_cancelled("a")
    running.create("done", make_spec(), PINNED)
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


def test_a_report_that_lacks_a_cell_may_be_written_again(running, database):
    checks = CheckRepository(database)
    cell = running.get("a").cells[0]
    checks.create(cell.check_id, cell.request)
    checks.fail(cell.check_id, "no space", "TOO_LARGE")
    running.succeed("a", REFS, "finished; 1 of 1 cells have no result")
    again = running.retry("a")
    assert (again.state, again.report, again.retries) == ("queued", None, 1)
    running.begin("a")
    running.succeed("a", REFS, "finished")
    checks.retry(cell.check_id)
    checks.succeed(cell.check_id, ReportRefs(json_ref=REF, html_ref=REF))
    assert running.retry("a").state == "queued", "the check succeeded after the report was written"
    running.succeed("a", REFS, "finished")
    with pytest.raises(PreconditionFailed, match="the experiment has succeeded"):
        running.retry("a")
