"""Erasure of a patient from jobs, checks and experiments: on both databases and a real S3 server."""

import random
import shutil

import pytest
import sqlalchemy as sa
from tests.unit.finetuning.experiments.test_repository import make_spec
from tests.unit.finetuning.jobs.test_repository import request, spec

from vfmalign.client.messages.checks import CheckSpec
from vfmalign.client.messages.erasure import ErasedDataset, ErasePatientRequest
from vfmalign.core.domain.errors import Cancelled, PreconditionFailed
from vfmalign.core.domain.jobs import JobProgress
from vfmalign.core.domain.models import Layer, ModelCard, Preprocessing
from vfmalign.core.domain.stored_objects import StoredFile, StoredObject
from vfmalign.core.rpc.watching import Watching
from vfmalign.core.storage.keys import cell_key, check_key, erasures_prefix, experiment_key, job_key
from vfmalign.database.tables import Base
from vfmalign.finetuning import erasure
from vfmalign.finetuning.checks.repository import CheckRepository, ReportRefs
from vfmalign.finetuning.checks.servicer import AlignmentServicer
from vfmalign.finetuning.checks.stages import Validated
from vfmalign.finetuning.deletions import Deletions
from vfmalign.finetuning.erasure import make_erasures
from vfmalign.finetuning.experiments.repository import ExperimentRefs, ExperimentRepository
from vfmalign.finetuning.experiments.request import PinnedInputs
from vfmalign.finetuning.jobs.repository import JobRepository
from vfmalign.finetuning.schema import open_database
from vfmalign.v1 import alignment_pb2

OLD, NEW, OTHER = "1" * 64, "2" * 64, "3" * 64
CASE, CASE_OF_OTHERS = "case-of-patient-1", "case-of-patient-2"
POINT = JobProgress(
    epoch=0, epochs=1, step=0, steps=1, train_loss=None, validation_score=0.5, elapsed_seconds=1.0
)  # fmt: skip


@pytest.fixture(autouse=True)
def settled(monkeypatch):
    """What has ended is settled at once."""
    monkeypatch.setattr(erasure, "_SETTLE_S", -5.0)


@pytest.fixture
def store(store):
    """An empty tenant of the module's bucket."""
    return store.of_tenant(f"t{random.getrandbits(64):x}")


class World:
    """The operations of one tenant, with objects and messages that name a case."""

    def __init__(self, database, store, report):
        self.database, self.store, self.report = database, store, report
        self.jobs, self.checks = JobRepository(database), CheckRepository(database)
        self.experiments = ExperimentRepository(database)

    def put(self, key, text):
        data = text.encode()
        self.store.put(key, data)
        return StoredFile.of(key, data)

    def add_job(self, name, dataset, digest, case, *, check_id="", baseline="", ends=True):
        resolved = spec(name).model_copy(update={"dataset_id": dataset, "dataset_digest": digest})
        self.jobs.create(request().model_copy(update={"dataset_id": dataset}), resolved, check_id, baseline)
        self.put(job_key(name, "progress/0000.json"), "a point")
        self.jobs.add_points(name, [POINT])
        if ends:
            self.jobs.succeed(name, self.put(job_key(name, "result.json"), f"score of {case}"))

    def add_failed_job(self, name, dataset, digest, case):
        self.add_job(name, dataset, digest, case, ends=False)
        self.jobs.fail(name, f"{case} is not a volume", "BAD_VOLUME", 3)

    def create_check(self, name, dataset, digest):
        self.checks.create(
            name, CheckSpec(model_id="m", dataset_id=dataset, dataset_digest=digest, task="segmentation")
        )

    def add_check(self, name, dataset, digest, case, *, of_jobs="", baseline=""):
        """A check that has succeeded, with two jobs; a digest of its jobs alone is `of_jobs`."""
        self.create_check(name, dataset, digest)
        self.finish(name, dataset, of_jobs or digest, case, baseline)

    def finish(self, name, dataset, digest, case, baseline=""):
        self.checks.begin(name)
        for network in ("pretrained", "specialised"):
            shared = baseline if network == "specialised" else ""
            self.add_job(f"{name}-{network}", dataset, digest, case, check_id=name, baseline=shared)
        self.checks.begin_stage(name, "mmd")
        self.checks.end_stage(name, "mmd", "succeeded", artifact_sha256="a" * 64)
        self.checks.record_loss(name, "features_before", f"{case} is lost")
        refs = [self.put(check_key(name, "report.json"), self.report.to_json().decode())]
        refs.append(self.put(check_key(name, "report.html"), f"figure of {case}"))
        self.checks.succeed(name, ReportRefs(json_ref=refs[0], html_ref=refs[1]))

    def add_failed_check(self, name, dataset, case, *, pinned=""):
        """A check that names no digest and has no job; it may have pinned one."""
        self.create_check(name, dataset, "")
        if pinned:
            self.store.write(check_key(name, "stages/validate.json"), make_validated(pinned))
        self.checks.begin(name)
        self.checks.fail(name, f"{case} has no label map", "BAD_DATASET")

    def add_experiment(self, name, dataset, digest, case):
        """An experiment that has succeeded, with its check and the result of its cell."""
        pinned = PinnedInputs(dataset_digest=digest, model_sha256=("a" * 64,), primary_metrics=("lesion_dice",))
        created = self.experiments.create(name, make_spec().model_copy(update={"dataset_id": dataset}), pinned)
        self.experiments.begin(name)
        for cell in created.cells:
            self.checks.create(cell.check_id, cell.request)
            self.finish(cell.check_id, dataset, digest, case)
            self.put_cell(cell.result_digest, dataset, digest, case)
        ref = self.put(experiment_key(name, "report.json"), f"score of {case}")
        self.experiments.succeed(name, ExperimentRefs(json_ref=ref, html_ref=ref, csv_ref=ref), "finished")

    def put_cell(self, name, dataset, digest, case):
        settings = f'{{"dataset_id": "{dataset}", "dataset_digest": "{digest}"}}'
        self.put(cell_key(name), f'{{"report": {{"result": {{"settings": {settings}}}}}, "scores": "{case}"}}')

    def dump(self):
        """Returns the rows of this tenant by table and key."""
        rows = {}
        with self.database.engine.connect() as connection:
            for table in Base.metadata.sorted_tables:
                for row in connection.execute(sa.select(table)).mappings():
                    if row.get("tenant") == self.database.tenant:
                        key = (table.name, *(row[column.name] for column in table.primary_key))
                        rows[key] = dict(row)
        return rows

    def read_all(self):
        """Returns the objects of this tenant, without receipts."""
        prefix = erasures_prefix("finetuning")
        return {key: self.store.get(key) for key in self.store.list("") if not key.startswith(prefix)}

    def everything(self):
        return self.dump(), self.read_all()


def make_validated(digest):
    card = ModelCard(
        id="m", architecture="net", objective="supervised", checkpoint=StoredObject(key="k", sha256="0" * 64),
        preprocessing=Preprocessing(modalities=("t2w",), spacing_mm=None, shape_dhw=(8, 8, 8)),
        layers=(Layer(name="a", channels=2),), primary_layer="a",
    )  # fmt: skip
    return Validated(
        card=card, dataset_digest=digest, layers=("a",), primary_layer="a", input_transform="identity",
        naive_baseline="none", held_out=True, phantom=False, leakage_known=True, test_groups=12, reference_groups=20,
        recipes={},
    )  # fmt: skip


def fill(world):
    """Operations of the version with the patient, which name the case, and others, which name another one."""
    world.add_check("done", "prostate", OLD, CASE, baseline="b" * 64)
    world.add_check("shared", "prostate", OLD, CASE, baseline="b" * 64)
    world.add_check("of-jobs", "prostate", "", CASE, of_jobs=OLD)
    world.add_failed_check("pinned", "prostate", CASE, pinned=OLD)
    world.add_failed_check("unknown", "prostate", CASE)
    world.add_job("alone", "prostate", OLD, CASE)
    world.add_failed_job("failed", "prostate", OLD, CASE)
    world.add_experiment("grid", "prostate", OLD, CASE)
    world.put_cell("of-another-release", "prostate", OLD, CASE)
    world.put(cell_key("unreadable"), f"{{ {CASE}")
    world.add_check("newer", "prostate", NEW, CASE_OF_OTHERS, baseline="c" * 64)
    world.add_check("newer-jobs", "prostate", "", CASE_OF_OTHERS, of_jobs=NEW)
    world.add_failed_check("newer-pinned", "prostate", CASE_OF_OTHERS, pinned=NEW)
    world.add_check("liver", "liver", OLD, CASE_OF_OTHERS)
    world.add_failed_job("newer-failed", "prostate", NEW, CASE_OF_OTHERS)
    world.add_experiment("newer-grid", "prostate", NEW, CASE_OF_OTHERS)
    world.put_cell("newer-cell", "prostate", NEW, CASE_OF_OTHERS)
    return world


@pytest.fixture
def world(database, store, make_report):
    return fill(World(database, store, make_report()))


def ask(**fields):
    datasets = (ErasedDataset(dataset_id="prostate", dataset_digest=OLD),)
    asked = {"erasure_id": "e1", "group": "patient-1", "models": "keep", "datasets": datasets}
    return ErasePatientRequest(**asked | fields)


def erase(world, **fields):
    return make_erasures(world.database, world.store).erase(ask(**fields), "https://idp#ada")


def describe(receipt):
    return {(one.kind, one.id): (one.outcome, one.count) for one in receipt.objects}


def name_case(rows, objects, case):
    """Returns the keys of rows and objects that name a case."""
    found = [key for key, row in rows.items() if case in repr(row)]
    return found + [key for key, data in objects.items() if case.encode() in data]


EXPECTED = {
    **{("check", name): ("changed", 2) for name in ("done", "shared", "of-jobs", "grid-segmentation-m-0")},
    **{
        ("job", f"{name}-{network}"): ("changed", 2)
        for name in ("done", "shared", "of-jobs", "grid-segmentation-m-0")
        for network in ("pretrained", "specialised")
    },
    ("check", "pinned"): ("changed", 1),
    ("check", "unknown"): ("changed", 0),
    ("job", "alone"): ("changed", 2),
    ("job", "failed"): ("changed", 1),
    ("experiment", "grid"): ("changed", 1),
    ("cell", "of-another-release"): ("removed", 1),
    ("cell", "unreadable"): ("removed", 1),
}


def test_everything_of_the_version_goes_and_everything_else_stays(world):
    rows, objects = world.everything()
    assert len(name_case(rows, objects, CASE)) > 20
    receipt = erase(world)
    rows_after, objects_after = world.everything()
    assert name_case(rows_after, objects_after, CASE) == []
    (cell,) = [one.id for one in receipt.objects if len(one.id) == 64]
    assert describe(receipt) == EXPECTED | {("cell", cell): ("removed", 1)}
    assert objects_after.items() <= objects.items()
    assert sum(one.count for one in receipt.objects) == len(objects) - len(objects_after)
    lost = sum(len(objects[key]) for key in objects.keys() - objects_after.keys())
    assert sum(one.size_bytes for one in receipt.objects) == lost
    assert rows_after.keys() == rows.keys()
    changed = {key[2] for key in rows if rows[key] != rows_after[key]}
    assert changed == {name for kind, name in EXPECTED if kind != "cell"}, "digests and rows of the others are equal"
    assert name_case(rows, objects, CASE_OF_OTHERS) == name_case(rows_after, objects_after, CASE_OF_OTHERS)
    assert receipt.complete_time >= receipt.create_time
    stored = b"".join(world.store.get(key) for key in world.store.list(erasures_prefix("finetuning")))
    assert not [text for text in ("patient-1", CASE) if text.encode() in stored]


def test_rows_keep_the_request_the_verdict_and_the_curve(world):
    check, job, failed = world.checks.get("done"), world.jobs.get("done-specialised"), world.jobs.get("failed")
    erase(world)
    after, result = world.checks.get("done"), world.report.result
    assert (after.request, after.state, after.finished_at) == (check.request, "succeeded", check.finished_at)
    assert (after.report, after.erased_at is None) == (None, False)
    assert f"Verdict `{result.verdict.label}`: {result.verdict.reason}" in after.progress.detail
    assert f"Pretraining `{result.pretraining.label}`: {result.pretraining.reason}" in after.progress.detail
    assert "MMD² of stages.3: 0.083" in after.progress.detail
    assert {run.message for run in world.checks.stages("done")} == {""}
    assert world.checks.artifact_digests("done") == {}
    erased = world.jobs.get("done-specialised")
    assert (erased.request, erased.spec, erased.curve) == (job.request, job.spec, job.curve)
    assert (erased.result, erased.baseline) == (None, "")
    assert failed.failure.reason == "BAD_VOLUME"
    failure = world.jobs.get("failed").failure
    assert (failure.reason, failure.message) == (
        "ERASED",
        "BAD_VOLUME; the erasure of a patient removed the message",
    )


def test_a_dry_run_changes_nothing(world):
    before = world.everything()
    planned = erase(world, dry_run=True)
    assert world.everything() == before
    assert not list(world.store.list(erasures_prefix("finetuning")))
    assert describe(planned) == describe(erase(world))


def test_a_repeated_call_answers_with_an_equal_receipt(world):
    receipt = erase(world)
    before = world.everything()
    assert erase(world).objects == receipt.objects
    assert make_erasures(world.database, world.store).get("e1").objects == receipt.objects
    assert world.everything() == before


def test_a_patient_in_no_dataset_leaves_everything_as_it_is(world):
    before = world.everything()
    for datasets in ((), (ErasedDataset(dataset_id="prostate", dataset_digest=OTHER),)):
        receipt = erase(world, erasure_id=f"e{len(datasets)}", datasets=datasets)
        assert receipt.complete_time
        assert {one.id for one in receipt.objects} <= {"unknown", "unreadable"}, "they may be of any version"
    rows, objects = world.everything()
    differing = {key[2] for key in rows if rows[key] != before[0][key]}
    assert differing == {"unknown"}
    assert before[1].keys() - objects.keys() == {cell_key("unreadable")}


def test_another_tenant_stays_as_it_is(world, make_report):
    theirs = fill(World(world.database.of_tenant("ward-7"), world.store.of_tenant("ward-7"), make_report()))
    try:
        before = theirs.everything()
        erase(world)
        assert theirs.everything() == before
    finally:
        for key in theirs.store.list(""):
            theirs.store.delete(key)


def test_a_training_is_not_taken_over_any_more(world):
    """`b…` is the baseline of two affected checks, `c…` of a check of the newer version."""
    digests = {"b" * 64, "c" * 64}
    assert world.jobs.find_trained(digests) == digests
    erase(world)
    assert world.jobs.find_trained(digests) == {"c" * 64}
    world.add_job("again", "prostate", OLD, CASE, baseline="b" * 64, ends=False)
    assert world.jobs.same_training(world.jobs.get("again")) is None


async def test_an_erased_check_says_so_and_is_neither_repaired_nor_retried(world, monkeypatch):
    erase(world)
    monkeypatch.setattr("vfmalign.finetuning.checks.servicer.read_report", lambda *_: pytest.fail("it is gone"))
    checks, jobs, experiments = world.checks, world.jobs, world.experiments
    servicer = AlignmentServicer(
        checks, jobs, world.store, delete=None, erasures=None, wake=str, watching=Watching("finetuning", 1.0)
    )
    with pytest.raises(PreconditionFailed, match="the erasure of a patient has removed its report") as caught:
        async for _ in servicer.GetCheckReport(alignment_pb2.GetCheckReportRequest(check_id="done"), None):
            pass
    assert caught.value.reason == "ERASED"
    shown = (await servicer.GetCheck(alignment_pb2.GetCheckRequest(check_id="done"), None)).check
    assert (shown.state, shown.HasField("result")) == (alignment_pb2.CHECK_STATE_SUCCEEDED, False)
    assert "Verdict `" in shown.progress.detail
    failed = (await servicer.GetCheck(alignment_pb2.GetCheckRequest(check_id="pinned"), None)).check
    assert failed.failure.message == "BAD_DATASET; the erasure of a patient removed the message"
    for repository, name in ((checks, "done"), (jobs, "alone"), (jobs, "failed"), (experiments, "grid")):
        assert repository.reopen(name, "it was lost").finished
        with pytest.raises(PreconditionFailed, match="the erasure of a patient") as caught:
            repository.retry(name)
        assert caught.value.reason == "ERASED"


def test_running_work_is_cancelled_and_waited_for(world):
    world.create_check("running", "prostate", OLD)
    world.checks.begin("running")
    world.add_job("running-pretrained", "prostate", OLD, CASE, check_id="running", ends=False)
    world.add_job("running-alone", "prostate", OLD, CASE, ends=False)
    world.add_job("running-newer", "prostate", NEW, CASE, ends=False)
    for name in ("running-pretrained", "running-alone", "running-newer"):
        world.jobs.begin(name)
    world.create_check("queued", "prostate", OLD)
    receipt = erase(world)
    assert receipt.complete_time is None
    assert world.checks.get("queued").state == "cancelled"
    assert world.checks.get("running").cancel_requested
    assert world.jobs.get("running-alone").cancel_requested
    assert not world.jobs.get("running-pretrained").cancel_requested, "the check cancels it once it has stopped"
    assert not world.jobs.get("running-newer").cancel_requested
    assert world.checks.get("done").erased_at is None, "nothing is removed while something may read it"
    resume = make_erasures(world.database, world.store).resume
    for end in (
        lambda: world.jobs.mark_cancelled("running-alone"),
        lambda: world.jobs.fail("running-pretrained", "cancelled", "JOB_FAILED"),
        lambda: world.checks.mark_cancelled("running"),
    ):
        resume()
        assert make_erasures(world.database, world.store).get("e1").complete_time is None
        end()
    resume()
    completed = make_erasures(world.database, world.store).get("e1")
    assert completed.complete_time
    assert {("check", "running"), ("check", "queued"), ("job", "running-alone")} <= describe(completed).keys()
    assert name_case(*world.everything(), CASE) == []
    assert world.jobs.get("running-newer").state == "pending"


def test_what_has_ended_just_now_may_still_be_writing(world, monkeypatch):
    monkeypatch.setattr(erasure, "_SETTLE_S", 3600.0)
    before = world.everything()
    assert erase(world).complete_time is None
    assert world.everything() == before


def test_a_check_that_is_created_meanwhile_is_erased_as_well(world, monkeypatch):
    plan = erasure.FinetuningEraser.plan

    def plan_and_create(self, stored):
        found = plan(self, stored)
        world.create_check("late", "prostate", OLD)
        world.create_check("late-unnamed", "prostate", "")
        world.create_check("late-newer", "prostate", NEW)
        return found

    with monkeypatch.context() as during:
        during.setattr(erasure.FinetuningEraser, "plan", plan_and_create)
        receipt = erase(world)
    assert receipt.complete_time is None
    assert not [key for key in describe(receipt) if key[1].startswith("late")]
    world.put(check_key("late", "spec.json"), "its driver began")
    make_erasures(world.database, world.store).resume()
    receipt = make_erasures(world.database, world.store).get("e1")
    assert receipt.complete_time
    assert {key[1] for key in describe(receipt) if key[1].startswith("late")} == {"late"}
    assert list(world.store.list("checks/late/")) == []
    assert world.checks.get("late").state == "cancelled"
    for name in ("late-newer", "late-unnamed"):  # the latter can only read the dataset without the patient
        assert world.checks.get(name).state == "queued"


def test_a_job_that_is_retried_meanwhile_is_not_deleted_while_it_runs(world, monkeypatch):
    empty = erasure.FinetuningEraser._empty

    def retry_and_empty(self, found):
        if found.id == "failed":
            world.jobs.retry("failed")
        empty(self, found)

    with monkeypatch.context() as during:
        during.setattr(erasure.FinetuningEraser, "_empty", retry_and_empty)
        assert erase(world).complete_time is None
    assert list(world.store.list("jobs/failed/"))
    assert erase(world).complete_time
    assert name_case(*world.everything(), CASE) == []


def test_an_interrupted_deletion_is_completed(world):
    def fail():
        raise Cancelled("the caller has left")

    with pytest.raises(Cancelled):
        Deletions(world.database, world.store.guarded_by(fail)).delete("job", "alone", dry_run=False)
    assert ("job", "alone") not in describe(erase(world))
    assert list(world.store.list("jobs/alone/")) == []


class Killed(Exception):
    """Stands for the end of the process."""


def test_an_interruption_at_any_write_is_completed(migrated_sqlite, tmp_path, store, make_report):
    """Ends the process before each write to the database or the store; the next start completes the erasure."""

    def start(number):
        path = shutil.copy(migrated_sqlite, tmp_path / f"{number}.db")
        opened = open_database(f"sqlite:///{path}")
        world = World(opened, store.of_tenant(f"{store.tenant}-{number}"), make_report())
        world.add_check("done", "prostate", OLD, CASE)
        world.add_failed_job("failed", "prostate", OLD, CASE)
        world.put_cell("a", "prostate", OLD, CASE)
        world.add_check("newer", "prostate", NEW, CASE_OF_OTHERS)
        return world

    def run(world, verify):
        guarded = world.database.guarded_by(lambda session: verify()), world.store.guarded_by(verify)
        make_erasures(*guarded).erase(ask(), "")

    writes = []
    world = start("whole")
    run(world, lambda: writes.append(1))
    expected, receipt = world.read_all(), make_erasures(world.database, world.store).get("e1")
    world.database.close()
    assert len(writes) > 10
    for moment in range(2, len(writes)):  # before, the receipt is not stored
        world, left = start(moment), iter(range(moment))

        def die(left=left):
            if next(left, None) is None:
                raise Killed

        with pytest.raises(Killed):
            run(world, die)
        make_erasures(world.database, world.store).resume()
        assert world.read_all() == expected, moment
        assert name_case(*world.everything(), CASE) == [], moment
        completed = make_erasures(world.database, world.store).get("e1")
        assert (describe(completed), completed.complete_time is None) == (describe(receipt), False), moment
        detail = world.checks.get("done").progress.detail
        assert "Verdict `" in detail, "the verdict is read before the report goes"
        world.database.close()


def test_the_files_of_sqlite_keep_no_removed_value(migrated_sqlite, tmp_path, store, make_report):
    """Also if SQLite was built without this default."""
    path = shutil.copy(migrated_sqlite, tmp_path / "finetuning.db")
    database = open_database(f"sqlite:///{path}", timeout_s=0.1)
    sa.event.listen(database.engine, "connect", lambda raw, _: raw.execute("PRAGMA secure_delete=OFF"), insert=True)
    world = World(database, store, make_report())
    world.add_failed_job("failed", "prostate", OLD, CASE * 100)  # on pages of its own

    def read_files():
        return b"".join(file.read_bytes() for file in sorted(tmp_path.glob("finetuning.db*")))

    assert CASE.encode() in read_files()
    with database.snapshot() as reader:
        reader.execute(sa.text("SELECT 1 FROM jobs"))
        assert erase(world).complete_time is None, "somebody still reads the log"
    assert erase(world).complete_time
    assert CASE.encode() not in read_files()
    database.close()
