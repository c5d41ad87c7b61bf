"""What the servicers of jobs, checks and experiments share."""

import pytest

from vfmalign.client.messages.checks import CheckSpec
from vfmalign.client.messages.common import ObjectRef
from vfmalign.client.messages.jobs import JobSpec, Recipe
from vfmalign.client.messages.tasks import Task
from vfmalign.core.domain.declarations import TaskParameters
from vfmalign.core.domain.errors import BadOption, DataLoss, PreconditionFailed
from vfmalign.core.domain.jobs import TrainingRecipe, TrainingSpec
from vfmalign.core.rpc import watching
from vfmalign.core.rpc.watching import Watching
from vfmalign.finetuning import servicers
from vfmalign.finetuning.checks.reporting import all_stages
from vfmalign.finetuning.checks.repository import CheckRepository
from vfmalign.finetuning.checks.servicer import AlignmentServicer
from vfmalign.finetuning.jobs.repository import JobRepository
from vfmalign.finetuning.jobs.servicer import FineTuningServicer
from vfmalign.finetuning.schema import open_database
from vfmalign.finetuning.servicers import OperationServicer
from vfmalign.v1 import alignment_pb2, common_pb2, features_pb2, finetuning_pb2

LARGE_TASK = Task(
    name="segmentation", parameters=TaskParameters(structures=tuple(f"structure_{i:022d}" for i in range(255)))
)
"""Its message takes 8.7 kB."""


def test_a_servicer_that_converts_nothing_cannot_be_created():
    class Incomplete(OperationServicer):
        pass

    with pytest.raises(TypeError, match="_convert"):
        Incomplete(None, watching=None)


@pytest.fixture
def servicer(tmp_path):
    database = open_database(f"sqlite:///{tmp_path / 'finetuning.db'}")
    database.migrate()
    jobs = JobRepository(database)
    request = JobSpec(kind="finetune", dataset_id="d", model_id="m", task=LARGE_TASK, recipe=Recipe(epochs=7))
    request = request.model_copy(update={"objective": "masked_reconstruction"})
    for index in range(5):
        spec = TrainingSpec(
            job_id=f"job-{index}", kind="finetune", dataset_id="d", dataset_digest="0" * 64, architecture="a", seed=0,
            recipe=TrainingRecipe(epochs=1, steps_per_epoch=1, batch_size=1, learning_rate=0.1),
        )  # fmt: skip
        jobs.create(request, spec)
    yield FineTuningServicer(
        jobs, None, log_command=str, delete=None, wake=lambda: None, watching=Watching("finetuning", 1.0)
    )
    database.close()


async def test_a_finished_check_lists_the_stages_that_ran(database, store):
    """Those of an earlier version are fewer."""
    checks = CheckRepository(database)
    checks.create("c", CheckSpec(model_id="m", dataset_id="d", task="segmentation"))
    watching = Watching("finetuning", 1.0)
    servicer = AlignmentServicer(
        checks, JobRepository(database), store, delete=None, erasures=None, wake=lambda: None, watching=watching
    )

    async def list_stages():
        check = (await servicer.GetCheck(alignment_pb2.GetCheckRequest(check_id="c"), None)).check
        return [stage.name for stage in check.stages]

    checks.begin("c")
    for stage in ("validate", "features_before"):
        checks.begin_stage("c", stage)
    assert len(await list_stages()) == len(all_stages(checks.get("c").request))
    checks.fail("c", "not a volume", "BAD_VOLUME")
    assert await list_stages() == ["validate", "features_before"]


async def test_lists_hold_whole_specifications_and_invent_nothing(servicer, database, store):
    jobs = (await servicer.ListJobs(finetuning_pb2.ListJobsRequest(), None)).jobs
    for job in jobs:
        whole = (await servicer.GetJob(finetuning_pb2.GetJobRequest(job_id=job.job_id), None)).job
        assert job == whole
        assert (job.spec.recipe.epochs, job.spec.objective) == (7, features_pb2.OBJECTIVE_MASKED_RECONSTRUCTION)
    checks = CheckRepository(database)
    checks.create("c", CheckSpec(model_id="m", dataset_id="d", task="segmentation", permutations=99))
    aligned = AlignmentServicer(
        checks,
        JobRepository(database),
        store,
        delete=None,
        erasures=None,
        wake=str,
        watching=Watching("finetuning", 1.0),
    )
    (listed,) = (await aligned.ListChecks(alignment_pb2.ListChecksRequest(), None)).checks
    assert listed.spec.permutations == 99
    assert listed == (await aligned.GetCheck(alignment_pb2.GetCheckRequest(check_id="c"), None)).check


async def test_a_page_ends_before_it_is_too_large_and_the_next_one_continues(servicer, monkeypatch):
    monkeypatch.setattr(servicers, "_PAGE_BYTES", 20_000)
    names, sizes, token = [], [], ""
    while token or not names:
        page = await servicer.ListJobs(finetuning_pb2.ListJobsRequest(page_size=4, page_token=token), None)
        assert page.jobs
        names += [job.job_id for job in page.jobs]
        sizes.append(len(page.jobs))
        assert page.ByteSize() < 21_000
        token = page.next_page_token
    assert sorted(names) == [f"job-{index}" for index in range(5)]
    assert max(sizes) < 4


@pytest.fixture
def report(store):
    ref = store.put("checks/c/report.html", b"page" * 5)
    return ObjectRef(uri=store.uri(ref.key), sha256=ref.sha256)


async def stream(store, files, number=0):
    return [part async for part in servicers.stream_report(store, "check c", "running", files, number)]


async def test_a_report_arrives_in_parts(store, report, monkeypatch):
    monkeypatch.setattr(watching, "_PART_BYTES", 8)
    files = {"html": report, "json": None}
    assert await stream(store, files) == [b"pagepage", b"pagepage", b"page"]
    assert await stream(store, files, common_pb2.REPORT_FORMAT_HTML) == [b"pagepage", b"pagepage", b"page"]
    with pytest.raises(BadOption, match="choose html"):
        await stream(store, files, common_pb2.REPORT_FORMAT_JSON)


async def test_without_a_report_the_state_is_named(store):
    with pytest.raises(PreconditionFailed, match="check c: there is no report, because the state is running") as caught:
        await stream(store, {})
    assert caught.value.reason == "NO_REPORT"


async def test_a_report_that_was_changed_is_not_sent(store, report):
    store.put("checks/c/report.html", b"other")
    with pytest.raises(DataLoss, match="the report is written again"):
        await stream(store, {"html": report})
