"""Operations on datasets with a patient, on both databases and a real S3 server."""

import random

import pytest
import sqlalchemy as sa
from tests.unit.finetuning.experiments.test_repository import make_spec
from tests.unit.finetuning.jobs.test_repository import request, spec

from vfmalign.client.messages.checks import CheckSpec
from vfmalign.client.messages.erasure import ErasedDataset, ErasePatientRequest
from vfmalign.core.domain.jobs import JobProgress
from vfmalign.core.domain.models import Layer, ModelCard, Preprocessing
from vfmalign.core.domain.stored_objects import StoredFile, StoredObject
from vfmalign.core.storage.keys import cell_key, check_key, erasures_prefix, experiment_key, job_key
from vfmalign.database.tables import Base
from vfmalign.finetuning import erasure
from vfmalign.finetuning.checks.repository import CheckRepository, ReportRefs
from vfmalign.finetuning.checks.stages import Validated
from vfmalign.finetuning.erasure import make_erasures
from vfmalign.finetuning.experiments.repository import ExperimentRefs, ExperimentRepository
from vfmalign.finetuning.experiments.request import PinnedInputs
from vfmalign.finetuning.jobs.repository import JobRepository

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
