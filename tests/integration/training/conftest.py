"""A small dataset and model on a real S3 server, and jobs on them in this process or in a separate one."""

import hashlib
import subprocess
import sys
import time

import pytest
import torch

from vfmalign.core.domain.jobs import JobResult, TrainingRecipe, TrainingSpec
from vfmalign.core.domain.models import Preprocessing
from vfmalign.core.runtime.work_queue import ShutdownRequest
from vfmalign.core.storage.keys import job_key, model_card_key, weights_key
from vfmalign.core.storage.model_cards import load_card
from vfmalign.imaging.phantoms.dataset import synthesise_dataset
from vfmalign.imaging.phantoms.rendering import PhantomSpec, SliceStack
from vfmalign.models.cards import publish
from vfmalign.models.formats.monai_bundle import encode_architecture_name
from vfmalign.models.registry import ARCHITECTURES
from vfmalign.models.weights import random_state, to_safetensors
from vfmalign.training.job import run_job
from vfmalign.training.settings import TrainingOptions

ARCHITECTURE = "profound_conv_micro"
OPTIONS = TrainingOptions(device="cpu", threads=1, workers=2)
RECIPE = TrainingRecipe(epochs=2, steps_per_epoch=2, batch_size=2, learning_rate=3e-3, layer_decay=0.8)
# Half the usual number of voxels along each axis, so that generating and reading takes a fraction of a second.
SMALL = PhantomSpec(
    t2w=SliceStack((60, 60, 18), (1.2, 1.2, 3.0)),
    dwi=SliceStack((40, 40, 18), (2.0, 2.0, 3.0)),
    adc=SliceStack((40, 40, 18), (2.0, 2.0, 3.0)),
    lesion_free_share=0.0,
)
INPUT = Preprocessing(modalities=("t2w", "dwi", "adc"), spacing_mm=(3.0, 2.0, 2.0), shape_dhw=(16, 32, 32))
BATCH_NORM = encode_architecture_name(
    "SegResNet",
    {
        "spatial_dims": 3,
        "init_filters": 8,
        "in_channels": 3,
        "out_channels": 2,
        "blocks_down": [1, 1],
        "blocks_up": [1],
        "norm": "BATCH",
    },
    ["down_layers.0", "down_layers.1"],
    INPUT,
)


@pytest.fixture(scope="module", autouse=True)
def _torch_as_before():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def dataset(store):
    # Of the seeds from 3 up, the first whose train, val and test hold cases with and without a significant lesion.
    return synthesise_dataset(store, "tiny", 31, {"pretrain": 4, "train": 4, "val": 2, "test": 3}, spec=SMALL)


@pytest.fixture(scope="module")
def model(store):
    """A "pretrained" model of random weights, with a small input."""
    return publish(
        store,
        "parent",
        random_state(ARCHITECTURES[ARCHITECTURE], 5),
        architecture=ARCHITECTURE,
        objective="masked_reconstruction",
        preprocessing=INPUT,
    )


@pytest.fixture(scope="module")
def make_spec(store, dataset, model):
    """Writes a spec and returns it."""

    def make(job, **changes):
        fields = {
            "job_id": job,
            "kind": "finetune",
            "dataset_id": dataset.id,
            "dataset_digest": dataset.digest(),
            "architecture": ARCHITECTURE,
            "model_id": model.id,
            "model_sha256": model.checkpoint.sha256,
            "task": "super_resolution",
            "recipe": RECIPE,
            "seed": 1,
            "publish_as": f"{job}-encoder",
        }
        spec = TrainingSpec.model_validate(fields | changes)
        store.write(job_key(job, "spec.json"), spec)
        return spec

    return make


@pytest.fixture(scope="module")
def finish(store):
    """Runs a job in this process and reads its result."""

    def run(spec, stop=None):
        run_job(store, spec, OPTIONS, stop or ShutdownRequest())
        return store.read(job_key(spec.job_id, "result.json"), JobResult)

    return run


@pytest.fixture(scope="module")
def long_spec(make_spec):
    """A job with enough epochs to be interrupted."""
    recipe = RECIPE.model_copy(update={"epochs": 5, "steps_per_epoch": 4})
    return lambda job: make_spec(job, recipe=recipe, task="segmentation")


@pytest.fixture(scope="module")
def undisturbed(long_spec, finish):
    return finish(long_spec("undisturbed"))


@pytest.fixture
def start(store, store_environment, python):
    """Starts a training process for a spec."""
    running = []

    def run(job):
        environment = store_environment | {"VFMALIGN_TRAINING__THREADS": "1", "VFMALIGN_TRAINING__DEVICE": "cpu"}
        command = [sys.executable, "-m", "vfmalign.training", store.uri(job_key(job, "spec.json"))]
        process = python(command, env=environment, stderr=subprocess.PIPE, text=True)
        running.append(process)
        return process

    yield run
    for process in running:
        process.kill()
        process.communicate()


def comparable(result):
    """A result without the fields that may differ: times, ids of the job and model, addresses of figures.

    The card names the job and the model, so that its digest differs as well; that of the weights must not.
    """
    content = result.model_dump()
    for name in ("job_id", "encoder", "encoder_card_sha256", "stage_seconds", "processor_seconds", "figures"):
        del content[name]
    for point in content["curve"]:
        del point["elapsed_seconds"]
    return content | {"figures": [figure.sha256 for figure in result.figures]}


def wait_for(store, key, process):
    deadline = time.monotonic() + 120
    while not store.exists(key):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline, f"{key} did not appear"
        time.sleep(0.02)


def replace_weights(store, model_id, **changes):
    """Replaces a published model's weights, like a rerun that gives slightly different ones; returns the card."""
    data = to_safetensors(random_state(ARCHITECTURES[ARCHITECTURE], 8))
    sha256 = hashlib.sha256(data).hexdigest()
    ref = store.put(weights_key(model_id, sha256), data)
    card = load_card(store, model_id).model_copy(update={"checkpoint": ref} | changes)
    store.write(model_card_key(model_id), card)
    return card
