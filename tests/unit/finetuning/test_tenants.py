"""Two tenants with the same ids in one database: neither learns of the other's jobs, checks and experiments."""

import pytest
import sqlalchemy as sa

from vfmalign.client.messages.checks import CheckSpec
from vfmalign.client.messages.common import Progress
from vfmalign.client.messages.experiments import ExperimentSpec
from vfmalign.client.messages.jobs import JobSpec
from vfmalign.core.domain.errors import Exhausted, NotFound, PreconditionFailed
from vfmalign.core.domain.jobs import TrainingRecipe, TrainingSpec
from vfmalign.core.domain.stored_objects import StoredFile
from vfmalign.core.rpc.access.identity import Identity, current_identity
from vfmalign.database.pagination import PageRequest
from vfmalign.finetuning.checks.repository import CheckRepository, ReportRefs
from vfmalign.finetuning.experiments.repository import ExperimentRefs, ExperimentRepository
from vfmalign.finetuning.experiments.request import PinnedInputs
from vfmalign.finetuning.jobs.repository import JobRepository
from vfmalign.finetuning.schema import SCHEMA

REF = StoredFile(key="k", sha256="0" * 64, size_bytes=1)


def to_check(seed=1):
    return CheckSpec(model_id="m", dataset_id="d", task="segmentation", seed=seed)


def create_job(jobs, name, *, check="", seed=1):
    request = JobSpec(kind="finetune", dataset_id="d", model_id="m", task="segmentation", seed=seed)
    recipe = TrainingRecipe(epochs=2, steps_per_epoch=1, batch_size=1, learning_rate=0.1)
    spec = TrainingSpec(
        job_id=name,
        kind="finetune",
        dataset_id="d",
        dataset_digest="0" * 64,
        architecture="a",
        seed=seed,
        recipe=recipe,
    )
    return jobs.create(request, spec, check_id=check, baseline="same")


@pytest.fixture
def tenants(database):
    return database, database.of_tenant("ward-7")


def test_jobs_are_separate(tenants):
    ours, theirs = (JobRepository(tenant) for tenant in tenants)
    create_job(ours, "j", check="c")
    create_job(ours, "ours")
    with pytest.raises(NotFound):
        theirs.get("j")
    assert theirs.list(PageRequest()).items == theirs.queued() == theirs.of_check("c") == ()
    assert (ours.find_trained({"same", "other"}), theirs.find_trained({"same"})) == ({"same"}, set())
    create_job(theirs, "j", check="c", seed=2)  # with another body
    assert theirs.begin("j").attempts == 1
    assert (ours.get("j").state, theirs.get("j").state) == ("queued", "pending")
    assert (ours.attempts("j"), len(theirs.attempts("j"))) == ((), 1)
    assert [job.id for job in theirs.launched()] == ["j"]
    assert ours.launched() == ()
    theirs.succeed("j", REF)
    assert ours.same_training(ours.get("ours")).id == "j"
    assert ours.same_training(ours.get("ours")).state == "queued", "not the result of another tenant"
    assert (ours.counts()["queued"], theirs.counts()["queued"], theirs.counts()["succeeded"]) == (2, 0, 1)
    assert CheckRepository(tenants[0]).job_results("c") == {}
    assert CheckRepository(tenants[1]).job_results("c") == {"j": REF}
    ours.cancel("j")
    assert (ours.get("j").state, theirs.get("j").state) == ("cancelled", "succeeded")


def test_checks_are_separate(tenants):
    ours, theirs = (CheckRepository(tenant) for tenant in tenants)
    ours.create("c", to_check())
    assert theirs.find("c", to_check(2)) is None, "no conflict with what another tenant has"
    assert theirs.active() == ()
    assert theirs.summaries(["c"]) == {}
    theirs.create("c", to_check(2))
    for checks, digest in ((ours, "a" * 64), (theirs, "b" * 64)):
        checks.begin("c")
        checks.set_stage_progress("c", [Progress(phase="mmd", detail=digest)])
        assert checks.begin_stage("c", "mmd") == 1
        checks.end_stage("c", "mmd", "succeeded", artifact_sha256=digest)
    theirs.forget_artifacts("c", ["mmd"])
    theirs.record_loss("c", "mmd", "lost")
    assert ours.artifact_digests("c") == {"mmd": "a" * 64}
    assert theirs.artifact_digests("c") == {}
    assert ([run.outcome for run in ours.stages("c")], len(theirs.stages("c"))) == (["succeeded"], 2)
    ours.begin_stage("c", "report")
    theirs.fail("c", "no space", "TOO_LARGE")
    assert [run.outcome for run in ours.stages("c")] == ["succeeded", "running"], "those of the other have ended"
    assert (ours.get("c").state, theirs.get("c").state) == ("running", "failed")
    assert [check.id for check in ours.list(PageRequest()).items] == ["c"]


def test_experiments_are_separate(tenants):
    spec = ExperimentSpec(model_ids=("m",), dataset_id="d", tasks=("segmentation",), seeds=(0,))
    pinned = PinnedInputs(dataset_digest="d" * 64, model_sha256=("a" * 64,), primary_metrics=("lesion_dice",))
    refs = ExperimentRefs(json_ref=REF, html_ref=REF, csv_ref=REF)
    experiments = [ExperimentRepository(tenant) for tenant in tenants]
    for one in experiments:
        one.create("e", spec, pinned)
        one.begin("e")
        one.succeed("e", refs, "finished")
    ours, theirs = experiments
    (cell,) = ours.get("e").cells
    checks = CheckRepository(tenants[1])
    checks.create(cell.check_id, cell.request)
    checks.succeed(cell.check_id, ReportRefs(json_ref=REF, html_ref=REF))
    theirs.retry("e")
    theirs.succeed("e", refs, "finished")
    with pytest.raises(PreconditionFailed, match="has succeeded"):
        theirs.retry("e")
    assert ours.retry("e").state == "queued", "its own check has no result"
    assert theirs.active() == ()


def test_quotas_are_those_of_a_caller_in_a_tenant(tenants):
    ours, theirs = (CheckRepository(tenant, quota=1) for tenant in tenants)
    token = current_identity.set(
        Identity("ada", "https://idp.example", frozenset({"default"}), frozenset({"researcher"}))
    )
    try:
        for checks in (ours, theirs):
            checks.create("c", to_check())
            with pytest.raises(Exhausted):
                checks.create("more", to_check())
    finally:
        current_identity.reset(token)


def test_every_key_begins_with_the_tenant(database):
    inspector = sa.inspect(database.engine)
    for table in set(inspector.get_table_names()) - {SCHEMA.version_table, "leases"}:
        assert inspector.get_pk_constraint(table)["constrained_columns"][0] == "tenant", table
        assert all(key["constrained_columns"][0] == "tenant" for key in inspector.get_foreign_keys(table)), table
