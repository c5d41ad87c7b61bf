"""Declared plans: which requests they fit, and which earlier checks they have to name."""

from __future__ import annotations

import pytest
from tests.prostate import GRADED
from tests.unit.finetuning.jobs.test_repository import request as job_request
from tests.unit.finetuning.jobs.test_repository import spec as job_spec

from vfmalign.client.messages.checks import CheckPlan, CheckSpec
from vfmalign.core.domain.datasets import DatasetManifest
from vfmalign.core.domain.errors import BadOption, Conflict
from vfmalign.core.domain.tasks import get_task_spec
from vfmalign.finetuning.checks.plans import check_metric, list_earlier
from vfmalign.finetuning.checks.repository import CheckRepository
from vfmalign.finetuning.checks.request import check_spec
from vfmalign.finetuning.deletions import Deletions
from vfmalign.finetuning.jobs.repository import JobRepository

MODEL, OTHER, DATASET = "a" * 64, "b" * 64, "d" * 64
PLAN = CheckPlan(
    metric="lesion_dice",
    smallest_difference=0.02,
    seeds=3,
    model_sha256=MODEL,
    dataset_digest=DATASET,
    require_pretraining=("gain",),
)
DEMO = DatasetManifest(id="demo", train=(), val=(), test=())


def make_spec(**fields):
    defaults = {"model_id": "vfm", "model_sha256": MODEL, "dataset_id": "demo", "task": "segmentation"}
    return CheckSpec.model_validate(defaults | fields)


def make_planned(**fields):
    return make_spec(
        **{"dataset_digest": DATASET, "smallest_difference": 0.02, "plan": PLAN.model_dump(mode="json")} | fields
    )


@pytest.fixture
def checks(database):
    return CheckRepository(database)


def list_ids(checks, check_id="planned", spec=None):
    check = checks.create(check_id, spec or make_planned())
    return [earlier.check_id for earlier in list_earlier(checks, check, DEMO)]


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"seeds": 4}, "plan.seeds", "the plan declares 3, and the request has 4"),
        ({"smallest_difference": 0.0}, "plan.smallest_difference", "0.02, and the request has none"),
        ({"model_sha256": OTHER}, "plan.model_sha256", f"declares {MODEL}, and the request has {OTHER}"),
        ({"dataset_digest": ""}, "plan.dataset_digest", "the request has none"),
        ({"plan": PLAN.model_copy(update={"gate": ("p_value<=0.05",)})}, "plan.gate", "is a p-value"),
        ({"plan": PLAN.model_copy(update={"require": ("better",)})}, "plan.require", "'better' is not a verdict"),
        ({"plan": PLAN.model_copy(update={"require_pretraining": ()})}, "plan.gate", "the plan has no gate"),
    ],
)
def test_a_plan_that_differs_from_its_request_is_refused(changes, field, message):
    check_spec(make_planned())
    with pytest.raises(BadOption, match=message) as caught:
        check_spec(make_planned().model_copy(update=changes))
    assert caught.value.field == field


def test_a_plan_names_the_primary_metric_of_the_task():
    task = get_task_spec(make_planned().task, DEMO.declaration)
    check_metric(make_planned(), task)
    with pytest.raises(BadOption, match="'mean_dice' is not the task's primary metric; use lesion_dice"):
        check_metric(make_planned(plan=PLAN.model_copy(update={"metric": "mean_dice"}).model_dump()), task)


def test_a_plan_is_a_part_of_the_request_and_without_one_the_request_keeps_its_digest(checks):
    assert b"plan" not in make_spec().to_json()
    assert CheckSpec.from_proto(make_planned().to_proto()) == make_planned()
    checks.create("c", make_planned(plan=None))
    with pytest.raises(Conflict, match="it differs in plan"):
        checks.create("c", make_planned())


def test_earlier_checks_of_the_same_model_dataset_and_task_are_listed(checks):
    checks.create("same", make_spec())
    checks.create("digest-unset", make_spec(model_sha256=""))
    checks.create("other-model", make_spec(model_id="other", model_sha256=OTHER))
    checks.create("other-model-unset", make_spec(model_id="other", model_sha256=""))
    checks.create("other-dataset", make_spec(dataset_id="demo-2"))
    checks.create("other-task", make_spec(task="classification"))
    checks.create("other-structure", make_spec(task="segmentation:label=gland"))
    assert list_ids(checks) == ["same", "digest-unset"]
    checks.create("later", make_spec())
    assert list_ids(checks) == ["same", "digest-unset"]


def test_a_task_that_states_the_defaults_of_the_dataset_is_the_same_task(checks):
    stated = DEMO.declaration.defaults["segmentation"]
    checks.create("stated", make_spec(task=f"segmentation:label={'+'.join(stated.labels)}"))
    checks.create("bad", make_spec(task="segmentation:label=kidney"))
    assert list_ids(checks) == ["stated"]


def test_a_grade_that_is_positive_from_another_grade_on_is_the_same_task(checks):
    graded = DEMO.model_copy(update={"declaration": GRADED})
    checks.create("k3", make_spec(task="classification:grade=pirads,at_least=3"))
    checks.create("class", make_spec(task="classification:class=significant_cancer"))
    check = checks.create("planned", make_planned(task="classification:grade=pirads,at_least=2"))
    assert [earlier.check_id for earlier in list_earlier(checks, check, graded)] == ["k3"]


def test_a_first_check_and_a_check_without_a_plan_have_no_earlier_checks(checks):
    assert list_ids(checks) == []
    assert list_ids(checks, "unplanned", make_spec()) == []


def test_the_digest_of_a_models_trainings_decides(checks, database):
    jobs = JobRepository(database)
    for name, model, sha256 in (("alias", "other", MODEL), ("replaced", "vfm", OTHER)):
        checks.create(name, make_spec(model_id=model, model_sha256=""))
        trained = job_request().model_copy(update={"model_sha256": sha256})
        jobs.create(trained, job_spec(f"{name}-pretrained"), name)
    assert list_ids(checks) == ["alias"]


def test_deleted_checks_are_listed_as_before(checks, database, store):
    jobs = JobRepository(database)
    checks.create("trained", make_spec(model_sha256=""))
    jobs.create(job_request().model_copy(update={"model_sha256": MODEL}), job_spec("j"), "trained")
    checks.create("other-model", make_spec(model_sha256=OTHER))
    checks.create("other-task", make_spec(task="classification"))
    checks.create("other-dataset", make_spec(dataset_id="demo-2"))
    expected = list_ids(checks)
    checks.create("later", make_spec())
    jobs.cancel("j")
    for name in ("trained", "other-model", "other-task", "other-dataset", "later"):
        checks.cancel(name)
        Deletions(database, store).delete("check", name, dry_run=False)
    assert list_ids(checks) == expected == ["trained"]


def test_checks_of_another_tenant_are_not_listed(checks, database, store):
    theirs = database.of_tenant("other")
    CheckRepository(theirs).create("theirs", make_spec())
    CheckRepository(theirs).create("deleted", make_spec())
    CheckRepository(theirs).cancel("deleted")
    Deletions(theirs, store).delete("check", "deleted", dry_run=False)
    assert list_ids(checks) == []
