"""Jobs that fail: every invalid spec, invalid dataset and unavailable store has its exit code and a helpful message."""

import subprocess
import sys

import pytest
import torch
from tests.integration.training.conftest import ARCHITECTURE, OPTIONS
from torch import nn

from vfmalign.core.domain.errors import (
    BadOption,
    Cancelled,
    Exhausted,
    ProcessLost,
    StoreRefused,
    StoreUnavailable,
    VfmalignError,
)
from vfmalign.core.domain.jobs import JobFailure, MetricSpec, TrainingRecipe, TrainingSpec
from vfmalign.core.domain.models import Preprocessing, PretrainingDataset
from vfmalign.core.domain.stored_objects import StoredObject
from vfmalign.core.runtime.metrics import Stages
from vfmalign.core.runtime.work_queue import ShutdownRequest
from vfmalign.core.storage.datasets import save_dataset
from vfmalign.core.storage.keys import job_key
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.imaging.phantoms.dataset import synthesise_dataset
from vfmalign.imaging.phantoms.rendering import PhantomSpec, SliceStack
from vfmalign.models.cards import publish
from vfmalign.models.registry import ARCHITECTURES
from vfmalign.models.weights import random_state
from vfmalign.training import failures
from vfmalign.training.__main__ import main
from vfmalign.training.checkpoint import CheckpointStore
from vfmalign.training.job import run_job
from vfmalign.training.settings import read_spec
from vfmalign.training.trainer import Trainer

RECIPE = TrainingRecipe(epochs=1, steps_per_epoch=1, batch_size=1, learning_rate=1e-3)
PRETRAIN = {"kind": "pretrain", "objective": "contrastive", "model_id": "", "task": ""}
STACK = SliceStack((40, 40, 18), (2.0, 2.0, 3.0))
SMALL = PhantomSpec(t2w=STACK, dwi=STACK, adc=STACK, lesion_free_share=0.0)


@pytest.fixture(scope="module")
def dataset(store):
    return synthesise_dataset(store, "tiny", 3, {"pretrain": 1, "train": 1, "val": 1, "test": 1}, spec=SMALL)


@pytest.fixture(scope="module")
def make_model(store, dataset):
    def make(model_id, architecture=ARCHITECTURE, seen=()):
        return publish(
            store,
            model_id,
            random_state(ARCHITECTURES[architecture], 5),
            architecture=architecture,
            objective="masked_reconstruction",
            preprocessing=Preprocessing(
                modalities=("t2w", "dwi", "adc"), spacing_mm=(3.0, 2.0, 2.0), shape_dhw=(16, 32, 32)
            ),
            pretraining=seen,
        )

    return make


@pytest.fixture(scope="module")
def fields(dataset, make_model):
    model = make_model("parent")
    return {
        "job_id": "job",
        "kind": "finetune",
        "dataset_id": dataset.id,
        "dataset_digest": dataset.digest(),
        "architecture": ARCHITECTURE,
        "model_id": model.id,
        "model_sha256": model.checkpoint.sha256,
        "task": "segmentation",
        "recipe": RECIPE,
        "seed": 1,
        "publish_as": "child",
    }


@pytest.fixture
def fail(store, fields):
    """Runs a job that must fail; returns its `failure.json` and its exit code."""

    def run(spec: TrainingSpec) -> JobFailure:
        store.write(job_key(spec.job_id, "spec.json"), spec)
        uri = store.uri(job_key(spec.job_id, "spec.json"))
        with pytest.raises(VfmalignError) as caught:
            run_job(store, read_spec(store, uri), OPTIONS, ShutdownRequest())
        code = failures.report(store, uri, caught.value)
        failure = store.read(job_key(spec.job_id, "failure.json"), JobFailure)
        assert failure.exit_code == code
        assert not store.exists(job_key(spec.job_id, "result.json"))
        store.delete(job_key(spec.job_id, "failure.json"))
        return failure

    return run


# --- bad specs: exit 2 ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"architecture": "resnet"}, "choose one of profound_conv_micro"),
        ({"architecture": "profound_conv_mini"}, "use the model's: profound_conv_micro"),
        (
            {"task": "astrology"},
            "choose one of segmentation, super_resolution, denoising, distortion, translation",
        ),
        (
            {"task": "classification", "recipe": RECIPE.model_copy(update={"patch_shape_dhw": (16, 16, 16)})},
            "classification needs whole volumes",
        ),
        ({"model_id": "nobody"}, "no model has this id"),
        ({"model_id": ""}, "name the pretrained model"),
        ({"task": ""}, "name the task"),
        ({"model_sha256": "0" * 64}, "the stored weights have SHA-256"),
        ({"publish_as": ""}, "name the model to publish the encoder as"),
        ({"publish_as": "Not An Id"}, "lower-case letters"),
        ({"publish_as": "parent"}, "another model is published under this id"),
        ({"network": "specialised"}, "no encoder to publish; leave it empty"),
        ({"kind": "pretrain", "objective": "contrastive", "task": ""}, "pretraining starts from random weights"),
        (PRETRAIN | {"objective": "supervised"}, "masked_reconstruction, contrastive"),
        (PRETRAIN, "but the batch size is 1"),
        ({"recipe": RECIPE.model_copy(update={"patch_shape_dhw": (16, 24, 32)})}, "multiples of (16, 16, 16)"),
        ({"recipe": RECIPE.model_copy(update={"patch_shape_dhw": (32, 32, 32)})}, "at most the input's size"),
    ],
)
def test_an_invalid_spec_is_rejected(fail, fields, changes, says):
    failure = fail(TrainingSpec.model_validate(fields | changes))
    assert failure.exit_code == failures.BAD_SPEC
    assert says in f"{failure.message}; {failure.remedy}"


def test_a_spec_must_be_valid_and_stored_at_its_own_address(store, fields):
    spec = TrainingSpec.model_validate(fields)
    for key, data, says in (
        ("jobs/none/spec.json", None, "no job spec is stored"),
        ("jobs/noise/spec.json", b"\x00", "Invalid JSON"),
        ("jobs/extra/spec.json", b'{"id":"extra","colour":"red"}', "not a TrainingSpec"),
        ("jobs/moved/spec.json", spec.to_json(), "another job's address"),
    ):
        if data is not None:
            store.put(key, data)
        with pytest.raises(VfmalignError, match=says) as caught:
            read_spec(store, store.uri(key))
        assert failures.exit_code(caught.value) == failures.BAD_SPEC
    with pytest.raises(VfmalignError, match="bucket") as caught:
        read_spec(store, "s3://elsewhere/jobs/job/spec.json")
    assert failures.report(store, "s3://elsewhere/jobs/job/spec.json", caught.value) == failures.BAD_SPEC
    assert not store.exists("jobs/job/failure.json")


# --- bad data: exit 3 -------------------------------------------------------------------------------------------------


def damaged(case, kind, **changes):
    return case.model_copy(update={"volumes": case.volumes | {kind: case.volumes[kind].model_copy(update=changes)}})


def without(case, kind):
    return case.model_copy(update={"volumes": {name: ref for name, ref in case.volumes.items() if name != kind}})


def truncated(store, case):
    data = store.get(case.volumes["adc"].key)[:500]
    ref = store.put("volumes/broken/adc.nii.gz", data)
    return case.model_copy(update={"volumes": case.volumes | {"adc": StoredObject(key=ref.key, sha256=ref.sha256)}})


@pytest.mark.parametrize(
    ("name", "spoil", "says"),
    [
        ("missing-volume", lambda s, c: damaged(c, "dwi", key="volumes/gone/dwi.nii.gz"), "no such object"),
        ("other-volume", lambda s, c: damaged(c, "dwi", sha256="0" * 64), "SHA-256"),
        ("truncated", truncated, "broken/adc.nii.gz"),
        ("no-modality", lambda s, c: without(c, "adc"), "no adc"),
        (
            "no-label",
            lambda s, c: without(c, "lesions"),
            "needs lesions, which is missing in 1 of 3 cases, such as phantom-",
        ),
    ],
)
def test_an_unusable_case_is_named(store, fail, fields, dataset, name, spoil, says):
    bad = dataset.model_copy(update={"id": name, "train": (spoil(store, dataset.train[0]),)})
    save_dataset(store, bad)
    failure = fail(TrainingSpec.model_validate(fields | {"dataset_id": name, "dataset_digest": bad.digest()}))
    assert failure.exit_code == failures.BAD_DATA
    assert says in failure.message
    assert failure.remedy


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_every_split_needs_a_case(store, fail, fields, dataset, split):
    bad = dataset.model_copy(update={"id": f"no-{split}", split: ()})
    save_dataset(store, bad)
    failure = fail(TrainingSpec.model_validate(fields | {"dataset_id": bad.id, "dataset_digest": bad.digest()}))
    assert failure.exit_code == failures.BAD_DATA
    assert f"'{split}' holds no case" in failure.message


def test_a_dataset_must_exist_with_its_digest(fail, fields):
    for changes, says in (({"dataset_id": "nowhere"}, "nowhere: not found"), ({"dataset_digest": "0" * 64}, "digest")):
        failure = fail(TrainingSpec.model_validate(fields | changes))
        assert failure.exit_code == failures.BAD_DATA
        assert says in failure.message


def test_a_test_case_from_the_models_pretraining_stops_the_job(fail, fields, dataset, make_model):
    (case,) = dataset.test
    digests = tuple(sorted(case.volumes[kind].sha256 for kind in ("t2w", "dwi", "adc")))
    seen = PretrainingDataset(dataset_id="earlier", dataset_digest="0" * 64, volume_sha256=digests, groups=())
    model = make_model("knows-too-much", seen=(seen,))
    changes = {"model_id": model.id, "model_sha256": model.checkpoint.sha256}
    failure = fail(TrainingSpec.model_validate(fields | changes))
    assert (failure.exit_code, failure.reason) == (failures.BAD_DATA, "LEAKAGE")
    assert case.id in failure.message


def test_validation_needs_a_case_with_a_value(store, fail, fields):
    healthy = PhantomSpec(t2w=STACK, dwi=STACK, adc=STACK, lesion_free_share=1.0)
    bad = synthesise_dataset(store, "healthy", 3, {"train": 1, "val": 1, "test": 1}, spec=healthy)
    failure = fail(TrainingSpec.model_validate(fields | {"dataset_id": bad.id, "dataset_digest": bad.digest()}))
    assert failure.exit_code == failures.BAD_DATA
    assert "the validation cases have no value of lesion_dice" in failure.message


# --- while training ---------------------------------------------------------------------------------------------------


class Diverging:
    """A learner whose loss is NaN at the third step."""

    metrics = (MetricSpec(name="m", unit="", higher_is_better=True, floor=0.0),)
    encoder = None

    def __init__(self):
        self.network = nn.Linear(1, 1)
        self.steps = 0

    def loss(self, batch, draw, forward):
        self.steps += 1
        return forward(torch.ones(1, 1)).sum() * (float("nan") if self.steps == 3 else 1.0)

    def validate(self, cases, check):
        return 0.0


def test_diverging_training_is_reported(store, fields, monkeypatch):
    monkeypatch.setattr("vfmalign.training.trainer.draw_batch", lambda *_, **__: None)
    spec = TrainingSpec.model_validate(fields | {"job_id": "nan", "recipe": RECIPE.model_copy(update={"epochs": 5})})
    trainer = Trainer(
        spec,
        Diverging(),
        [],
        [],
        checkpoints=CheckpointStore(store, spec.job_id, spec.digest()),
        publish=lambda point: None,
        stop=ShutdownRequest(),
        stages=Stages(),
        device=torch.device("cpu"),
    )
    with pytest.raises(BadOption, match=r"recipe\.learning_rate.*diverged: the loss of step 2") as caught:
        trainer.fit()
    assert failures.exit_code(caught.value) == failures.BAD_SPEC


def test_large_checkpoints_are_uploaded_in_parts(store, monkeypatch):
    checkpoints = CheckpointStore(store, "large", "0" * 64)
    whole = checkpoints.put(b"x" * 5000)
    monkeypatch.setattr("vfmalign.training.checkpoint.SINGLE_PUT_BYTES", 1000)
    assert checkpoints.put(b"x" * 5000) == whole
    assert checkpoints.get(whole) == b"x" * 5000


def test_transient_errors_leave_no_failure_file(store):
    for error, code in (
        (StoreUnavailable("down"), 69),
        (StoreRefused("old key"), 69),
        (ProcessLost("gone"), 76),
        (Cancelled("stop"), 143),
        (Exhausted("full"), 75),
    ):
        assert failures.report(store, store.uri("jobs/passing/spec.json"), error) == code
    assert not store.exists("jobs/passing/failure.json")


def test_a_rerun_clears_the_failure_file(store, fields):
    spec = TrainingSpec.model_validate(fields | {"job_id": "repaired", "publish_as": "repaired"})
    store.write(job_key("repaired", "spec.json"), spec)
    failures.report(store, store.uri("jobs/repaired/spec.json"), BadOption("wrong"))
    run_job(store, spec, OPTIONS, ShutdownRequest())
    assert store.exists(job_key("repaired", "result.json"))
    assert not store.exists(job_key("repaired", "failure.json"))


# --- the process ------------------------------------------------------------------------------------------------------


COMMAND = [sys.executable, "-m", "vfmalign.training"]
PIPES = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}


@pytest.fixture
def run(python):
    """Runs the program; returns its exit code and what it printed."""

    def run_program(*arguments, environment=None):
        process = python([*COMMAND, *arguments], env=environment, **PIPES)
        out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    return run_program


@pytest.fixture
def store_failing(store, fields):
    """Stores the spec of a job that fails, and returns its address."""

    def write(job, **changes):
        store.write(job_key(job, "spec.json"), TrainingSpec.model_validate(fields | changes | {"job_id": job}))
        return store.uri(job_key(job, "spec.json"))

    return write


def test_a_process_exits_with_the_code_of_its_failure(store, store_environment, store_failing):
    command = [*COMMAND, store_failing("bad-data", dataset_digest="0" * 64)]
    done = subprocess.run(command, env=store_environment, timeout=120, check=False, **PIPES)
    assert done.returncode == 3, done.stderr
    assert store.read(job_key("bad-data", "failure.json"), JobFailure).exit_code == 3
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("process_as_before")
def test_main_returns_the_code_of_an_invalid_spec(store, store_environment, store_failing, monkeypatch):
    for name, value in store_environment.items():
        monkeypatch.setenv(name, value)
    assert main([store_failing("bad-spec", task="astrology")]) == 2
    assert store.read(job_key("bad-spec", "failure.json"), JobFailure).exit_code == 2


def test_an_unavailable_store_has_an_exit_code_of_its_own(run, store, store_environment):
    environment = store_environment | {"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9"}
    done = run(store.uri(job_key("job", "spec.json")), environment=environment)
    assert done.returncode == 69, done.stderr


def test_settings_and_arguments_are_explained(run, store_environment):
    wrong = run("s3://b/default/jobs/j/spec.json", environment=store_environment | {"VFMALIGN_TRAINING__DEVICE": "tpu"})
    assert wrong.returncode == 2
    assert "VFMALIGN_TRAINING__DEVICE" in wrong.stderr
    shown = run("--help")
    assert shown.returncode == 0
    for variable in ("VFMALIGN_TRAINING__THREADS", "VFMALIGN_TRAINING__WORKERS", "AWS_ENDPOINT_URL_S3", "spec_uri"):
        assert variable in shown.stdout
    assert run("--version").stdout.startswith("vfmalign ")


def test_store_errors_map_to_the_expected_exit_codes(store_settings):
    down = store_settings.model_copy(update={"endpoint": "http://127.0.0.1:9"})
    with pytest.raises(StoreUnavailable):
        read_spec(ObjectStore(down, attempts=1), f"s3://{down.bucket}/default/jobs/j/spec.json")
