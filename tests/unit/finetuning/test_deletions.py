"""Deletion of jobs, checks and experiments on both databases and a real S3 server: what goes, and what refuses."""

import itertools
import threading
from datetime import timedelta

import pytest
import sqlalchemy as sa
from tests.unit.finetuning.experiments.test_repository import PINNED, REFS, make_spec
from tests.unit.finetuning.jobs.test_repository import request, spec

from vfmalign.client.messages.checks import CheckSpec
from vfmalign.client.messages.common import Deletion
from vfmalign.core.domain.errors import Cancelled, Conflict, NotFound, PreconditionFailed
from vfmalign.core.storage.keys import cell_key, check_key, experiment_key, job_key
from vfmalign.database.tables import now
from vfmalign.finetuning.checks.repository import CheckRepository
from vfmalign.finetuning.checks.tables import CheckRow
from vfmalign.finetuning.deleted import DeletedRow
from vfmalign.finetuning.deletions import Deletions
from vfmalign.finetuning.experiments.repository import ExperimentRepository
from vfmalign.finetuning.experiments.tables import ExperimentRow
from vfmalign.finetuning.jobs.repository import JobRepository
from vfmalign.finetuning.jobs.tables import JobRow


@pytest.fixture
def jobs(database):
    return JobRepository(database)


@pytest.fixture
def checks(database):
    return CheckRepository(database)


@pytest.fixture
def experiments(database):
    return ExperimentRepository(database)


@pytest.fixture
def bucket(store):
    yield store
    for key in store.list(""):
        store.delete(key)


@pytest.fixture
def deletions(database, bucket):
    return Deletions(database, bucket)


def add_job(jobs, bucket, name, check_id="", baseline=""):
    """A job that has ended, with three objects of five bytes."""
    jobs.create(request().model_copy(update={"model_sha256": "a" * 64}), spec(name), check_id, baseline)
    for artifact in ("spec.json", "result.json", "progress/0001.json"):
        bucket.put(job_key(name, artifact), b"12345")
    jobs.fail(name, "it failed", "JOB_FAILED")


def add_check(checks, jobs, bucket, name, request=None):
    """A check that has ended, with two jobs and one object of its own."""
    checks.create(name, request or CheckSpec(model_id="m", dataset_id="demo", task="segmentation"))
    for network in ("pretrained", "specialised"):
        add_job(jobs, bucket, f"{name}-{network}", name, baseline=f"{name}-{network}")
    bucket.put(check_key(name, "report.json"), b"12345")
    checks.fail(name, "it failed", "JOB_FAILED")


def test_a_job_goes_with_its_objects_and_its_id_is_not_used_again(deletions, jobs, bucket):
    for name in ("a", "ab"):
        add_job(jobs, bucket, name)
    assert deletions.delete("job", "a", dry_run=True) == Deletion(objects=3, size_bytes=15)
    assert jobs.get("a").state == "failed"
    assert deletions.delete("job", "a", dry_run=False) == Deletion(objects=3, size_bytes=15)
    for call in (lambda: jobs.get("a"), lambda: deletions.delete("job", "a", dry_run=False)):
        with pytest.raises(NotFound):
            call()
    assert len(list(bucket.list("jobs/"))) == 3
    assert jobs.get("ab").state == "failed"
    with pytest.raises(Conflict, match="a job with this id was deleted"):
        jobs.create(request(), spec("a"))


def test_a_check_goes_with_its_jobs_and_leaves_four_facts(deletions, checks, jobs, bucket, database):
    for name in ("c", "c2"):
        add_check(checks, jobs, bucket, name)
    created = checks.get("c").created_at
    assert deletions.delete("check", "c", dry_run=False) == Deletion(objects=7, size_bytes=35)
    assert [key for key in bucket.list("") if "/c/" in key or "/c-" in key] == []
    assert len(list(bucket.list(""))) == 7
    with pytest.raises(NotFound):
        jobs.get("c-pretrained")
    with database.snapshot() as session:
        kept = session.get_one(DeletedRow, (database.tenant, "check", "c"))
        assert kept.facts.pop("finished_at") is not None
        task = checks.get("c2").request.task.model_dump(mode="json")
        facts = {"model_sha256": "a" * 64, "dataset_id": "demo", "task": task, "created_at": created.isoformat()}
        assert kept.facts == facts
    with pytest.raises(Conflict, match="a check with this id was deleted"):
        checks.create("c", CheckSpec(model_id="m", dataset_id="demo", task="segmentation"))


def test_an_experiment_goes_with_its_checks_and_cells(deletions, experiments, checks, jobs, bucket):
    add_check(checks, jobs, bucket, "e-but-of-nobody")
    experiment = experiments.create("e", make_spec(), PINNED)
    experiments.begin("e")
    for cell in experiment.cells:
        add_check(checks, jobs, bucket, cell.check_id, cell.request)
        bucket.put(cell_key(cell.result_digest), b"12345")
    bucket.put(experiment_key("e", "report.json"), b"12345")
    with pytest.raises(PreconditionFailed, match="the experiment e is running") as running:
        deletions.delete("experiment", "e", dry_run=True)
    assert running.value.reason == "IN_USE"
    experiments.succeed("e", REFS, "finished")
    part = experiment.cells[0].check_id
    with pytest.raises(PreconditionFailed, match="the check is a part of the experiment e") as caught:
        deletions.delete("check", part, dry_run=False)
    assert "vfmalign experiments delete e" in caught.value.remedy
    assert deletions.delete("experiment", "e", dry_run=False).objects == 1 + len(experiment.cells) * (7 + 1)
    assert all("e-but-of-nobody" in key for key in bucket.list(""))
    for call in (lambda: experiments.get("e"), lambda: checks.get(part)):
        with pytest.raises(NotFound):
            call()
    assert deletions.delete("check", "e-but-of-nobody", dry_run=False).objects == 7


def test_work_that_goes_on_refuses_and_is_named(deletions, checks, jobs, bucket):
    jobs.create(request(), spec("queued"))
    with pytest.raises(PreconditionFailed, match="the job queued is queued"):
        deletions.delete("job", "queued", dry_run=False)
    add_check(checks, jobs, bucket, "c")
    with pytest.raises(PreconditionFailed, match="the job is a part of the check c"):
        deletions.delete("job", "c-pretrained", dry_run=False)
    jobs.create(request(), spec("waits"), "other", "c-specialised")
    with pytest.raises(PreconditionFailed, match="the check other uses one of its trainings"):
        deletions.delete("check", "c", dry_run=False)
    jobs.fail("waits", "it failed", "JOB_FAILED")
    jobs.create(request(), spec("unrelated"), "other", "another baseline")
    assert deletions.delete("check", "c", dry_run=False).objects == 7


def test_an_interrupted_deletion_is_completed_by_a_call_or_by_the_leader(database, jobs, bucket):
    writes = itertools.count(1)

    def fail_sometimes():
        if next(writes) % 3 == 0:
            raise Cancelled("the caller has left")

    for name in ("a", "b"):
        add_job(jobs, bucket, name)
        with pytest.raises(Cancelled):
            Deletions(database, bucket.guarded_by(fail_sometimes)).delete("job", name, dry_run=False)
        with pytest.raises(NotFound):
            jobs.get(name)
        assert 0 < len(list(bucket.list(f"jobs/{name}/"))) < 3
        with pytest.raises(Conflict):
            jobs.create(request(), spec(name))
    deletions = Deletions(database, bucket)
    assert 0 < deletions.delete("job", "a", dry_run=False).objects < 3
    assert 0 < deletions.complete().objects < 3
    assert list(bucket.list("jobs/")) == []
    assert deletions.complete().objects == 0


def test_another_tenant_neither_finds_nor_loses_anything(database, jobs, bucket):
    add_job(jobs, bucket, "a")
    theirs = Deletions(database.of_tenant("ward-7"), bucket.of_tenant("ward-7"))
    with pytest.raises(NotFound):
        theirs.delete("job", "a", dry_run=False)
    assert jobs.get("a").state == "failed"
    assert len(list(bucket.list("jobs/a/"))) == 3


def test_a_sweep_deletes_what_ended_long_ago_and_nothing_unfinished(
    deletions, database, experiments, checks, jobs, bucket
):
    add_job(jobs, bucket, "job")
    jobs.create(request(), spec("queued"))
    add_check(checks, jobs, bucket, "check")
    experiment = experiments.create("e", make_spec(), PINNED)
    for cell in experiment.cells:
        add_check(checks, jobs, bucket, cell.check_id, cell.request)
    experiments.begin("e")
    everything = list(bucket.list(""))

    def age(days):
        with database.session() as session:
            for table in (JobRow, CheckRow, ExperimentRow):
                ended = table.finished_at.is_not(None)
                session.execute(sa.update(table).where(ended).values(finished_at=now() - timedelta(days=days)))

    age(30)
    assert deletions.sweep(None, None).objects == 0
    assert deletions.sweep(31, 31).objects == 0
    assert list(bucket.list("")) == everything
    assert deletions.sweep(29, None).objects == 3
    with pytest.raises(NotFound):
        jobs.get("job")
    assert deletions.sweep(29, 29).objects == 7, "the checks of an unfinished experiment stay"
    assert jobs.get("queued").state == "queued"
    experiments.succeed("e", REFS, "finished")
    assert deletions.sweep(29, 29).objects == 0
    age(30)
    assert deletions.sweep(29, 29).objects == 7 * len(experiment.cells)
    assert list(bucket.list("")) == []


def test_a_callers_check_with_the_id_of_a_cell_stays_the_callers(
    deletions, database, experiments, checks, jobs, bucket
):
    experiment = experiments.create("e", make_spec(), PINNED)
    cell = experiment.cells[0]
    add_check(checks, jobs, bucket, cell.check_id)  # with another request
    experiments.begin("e")
    experiments.fail("e", "it failed", "NO_CHECK_SUCCEEDED")
    assert deletions.delete("experiment", "e", dry_run=False).objects == 0
    assert deletions.delete("check", cell.check_id, dry_run=False).objects == 7

    cell = experiments.create("f", make_spec(), PINNED).cells[0]
    add_check(checks, jobs, bucket, cell.check_id, cell.request)  # with the same one
    with database.session() as session:
        session.execute(sa.update(CheckRow).values(created_by="https://idp#bob"))
    experiments.begin("f")
    experiments.fail("f", "it failed", "NO_CHECK_SUCCEEDED")
    assert deletions.delete("experiment", "f", dry_run=False).objects == 0
    assert deletions.delete("check", cell.check_id, dry_run=False).objects == 7


def test_a_retry_waits_for_a_deletion_and_then_finds_nothing(deletions, jobs, bucket, monkeypatch):
    add_job(jobs, bucket, "a")
    retried, threads, plan = [], [], deletions._plan

    def retry():
        try:
            retried.append(jobs.retry("a"))
        except Exception as error:
            retried.append(error)

    def plan_while_it_is_retried(*arguments, **options):
        found = plan(*arguments, **options)
        threads.append(threading.Thread(target=retry))
        threads[0].start()
        threads[0].join(0.5)
        assert threads[0].is_alive(), "the retry did not wait"
        return found

    monkeypatch.setattr(deletions, "_plan", plan_while_it_is_retried)
    assert deletions.delete("job", "a", dry_run=False).objects == 3
    threads[0].join(60)
    assert isinstance(retried[0], NotFound), retried


def test_a_dry_run_shows_what_an_interrupted_deletion_has_left(database, jobs, bucket):
    def fail():
        raise Cancelled("the caller has left")

    add_job(jobs, bucket, "a")
    with pytest.raises(Cancelled):
        Deletions(database, bucket.guarded_by(fail)).delete("job", "a", dry_run=False)
    deletions = Deletions(database, bucket)
    assert deletions.delete("job", "a", dry_run=True).objects == 3
    assert deletions.delete("job", "a", dry_run=False).objects == 3


def test_the_trainings_that_an_unfinished_check_has_taken_over_stay(deletions, checks, jobs, bucket):
    add_check(checks, jobs, bucket, "c")
    checks.create("other", CheckSpec(model_id="m", dataset_id="demo", task="segmentation"))
    add_job(jobs, bucket, "other-specialised", "other", "c-specialised")
    with pytest.raises(PreconditionFailed, match="the check other uses one of its trainings"):
        deletions.delete("check", "c", dry_run=False)
    checks.fail("other", "it failed", "JOB_FAILED")
    assert deletions.delete("check", "c", dry_run=False).objects == 7
