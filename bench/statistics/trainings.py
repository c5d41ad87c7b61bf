"""Fine-tunings of small encoders on two cores: the networks, recipes and loop of a job, without services and a store.

A job is a JSON object, so that `bench.monitoring.jobs` keeps its result in a file and a run resumes. Its encoder begins
with the weights that a seed draws, or with those of an encoder that was fine-tuned on other cases before.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vfmalign.client.messages.tasks import Task
from vfmalign.core.domain.datasets import Case
from vfmalign.core.domain.declarations import get_declaration
from vfmalign.core.domain.jobs import MetricSpec, TrainingRecipe, TrainingSpec
from vfmalign.core.domain.modality_map import resolve_input
from vfmalign.core.domain.models import Preprocessing
from vfmalign.core.domain.recipes import get_finetuning_recipe
from vfmalign.core.domain.stored_objects import StoredObject
from vfmalign.core.domain.task_specs import TaskSpec
from vfmalign.core.domain.tasks import get_task_spec

if TYPE_CHECKING:
    from vfmalign.imaging.volumes import Volume
    from vfmalign.models.architectures.base import Architecture
    from vfmalign.training.checkpoint import TrainerState
    from vfmalign.training.data import PreparedCase

HIPPOCAMPUS = Path(os.environ.get("VFMALIGN_BENCH_HIPPOCAMPUS", "../shared/data/hippocampus"))
"""Folder with `images/X.nii.gz` and `labels/X.nii.gz` of the Medical Segmentation Decathlon's task 4."""
PHANTOM_SEED = 2025
SIZES = {"train": 20, "val": 8, "test": 40, "other": 100}
"""Patients by use; the encoders of the positive control are fine-tuned on the other ones."""
PRETRAINING_EPOCHS = 24
"""Epochs on the other patients, three times as many as those of the recipe `demo`."""


@dataclass(frozen=True)
class Anatomy:
    """A dataset of the control: its declaration, and whether encoders take one volume or three."""

    declaration: str
    single: bool


ANATOMIES = {
    "phantoms": Anatomy("prostate_mpmri", single=False),
    "hippocampus": Anatomy("hippocampus", single=True),
}
ARCHITECTURES = ("ConvNeXt micro", "SegResNet-8")
RESNETS = {"ResNet-10": [1, 1, 1, 1], "ResNet-18": [2, 2, 2, 2]}
"""Networks with batch normalisation, and the numbers of their blocks. `--control-architectures` adds them."""
CELLS = tuple((architecture, anatomy) for anatomy in ANATOMIES for architecture in ARCHITECTURES)
RESNET_CELLS = tuple((architecture, anatomy) for anatomy in ANATOMIES for architecture in RESNETS)


def train(job: Mapping[str, Any]) -> dict[str, Any]:
    """Trains and scores one network.

    Args:
        job: `architecture` and `anatomy` name the cell; `initial` is the seed of the initial weights, `seed` that of
            the training; `recipe` names the network whose recipe `demo` is used, with this number of `epochs`;
            `encoder`, if it is there, is the folder in which encoders fine-tuned on other cases lie or are created.

    Returns:
        The best validation score, and the primary metric of each test case.
    """
    import structlog
    import torch

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=True)
    architecture = _get_architecture(job["architecture"], job["anatomy"])
    weights = _draw_weights(architecture, job["initial"])
    if job.get("encoder"):
        weights = _load_pretrained(job, architecture, Path(job["encoder"]))
    recipe = get_finetuning_recipe(job["recipe"], "segmentation", "demo").model_copy(update={"epochs": job["epochs"]})
    random = not job.get("encoder")
    state, scores, _ = _fit(job, architecture, weights, recipe=recipe, seed=job["seed"], split="train", random=random)
    return {"val": state.curve[state.best_epoch].validation_score, "scores": scores}


def _load_pretrained(job: Mapping[str, Any], architecture: Architecture, folder: Path) -> dict[str, Any]:
    from vfmalign.models.weights import load_state, to_safetensors

    path = folder / f"{job['architecture']}-{job['anatomy']}-{job['initial']}.safetensors".replace(" ", "-")
    if not path.exists():
        recipe = get_finetuning_recipe("scratch", "segmentation", "demo").model_copy(
            update={"epochs": PRETRAINING_EPOCHS}
        )
        weights = _draw_weights(architecture, job["initial"])
        _, _, weights = _fit(job, architecture, weights, recipe=recipe, seed=job["initial"], split="other", random=True)
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}.part")
        unfinished.write_bytes(to_safetensors(weights))
        unfinished.replace(path)
    return load_state(path.read_bytes(), architecture)


def _fit(
    job: Mapping[str, Any],
    architecture: Architecture,
    weights: dict[str, Any],
    *,
    recipe: TrainingRecipe,
    seed: int,
    split: str,
    random: bool,
) -> tuple[TrainerState, list[float | None], dict[str, Any]]:
    """Trains as a job does (`training.job`), and returns its state, its test scores and the weights of its encoder."""
    import torch

    from vfmalign.core.runtime.metrics import Stages
    from vfmalign.core.runtime.work_queue import ShutdownRequest
    from vfmalign.models.running_statistics import list_running
    from vfmalign.models.weights import build_encoder
    from vfmalign.training.data import derive_seed
    from vfmalign.training.learner import FineTuning
    from vfmalign.training.networks.factory import build_network
    from vfmalign.training.networks.statistics import estimate_from_cases
    from vfmalign.training.tasks import get_task
    from vfmalign.training.trainer import Trainer

    task = get_task(_get_task(job["anatomy"]))
    device, stop = torch.device("cpu"), ShutdownRequest()
    torch.manual_seed(derive_seed(seed, "head"))
    encoder = build_encoder(architecture, weights, device)
    if random and list_running(encoder):
        estimate_from_cases(encoder, _load_cases(job["anatomy"], split), None, device, stop.check)
    learner = FineTuning(task, build_network(task, encoder, architecture.preprocessing), encoder, device)
    spec = TrainingSpec(
        job_id="bench", kind="finetune", dataset_id=job["anatomy"], dataset_digest="0" * 64,
        architecture=architecture.name, model_id="bench", recipe=recipe, seed=seed,
    )  # fmt: skip
    trainer = Trainer(
        spec,
        learner,
        _load_cases(job["anatomy"], split),
        _load_cases(job["anatomy"], "val"),
        checkpoints=_Checkpoints(),
        publish=lambda point: None,
        stop=stop,
        stages=Stages(),
        device=device,
    )
    state = trainer.fit()
    name = learner.metrics[0].name
    test = _load_cases(job["anatomy"], "test") if split == "train" else []
    scores = [values[name] for values in learner.score(test, stop.check)]
    return state, scores, {key: tensor.clone() for key, tensor in encoder.state_dict().items()}


class _Checkpoints:
    """Weights of one training in memory: it is not interrupted within a job of the benchmark."""

    def __init__(self) -> None:
        self._data: dict[str, bytes] = {}

    def load_latest(self) -> None:
        return None

    def commit(self, state: TrainerState, tensors: bytes) -> TrainerState:
        return state

    def put(self, data: bytes) -> StoredObject:
        stored = StoredObject.of("weights", data)
        self._data = {stored.sha256: data}
        return stored

    def get(self, ref: StoredObject) -> bytes:
        return self._data[ref.sha256]

    def delete(self, ref: StoredObject) -> None:
        """Keeps the last weights alone, as `put` does."""


def _draw_weights(architecture: Architecture, initial: int) -> dict[str, Any]:
    from vfmalign.models.weights import random_state
    from vfmalign.training.data import derive_seed

    return random_state(architecture, derive_seed(initial, "encoder"))


def _get_architecture(name: str, anatomy: str) -> Architecture:
    from vfmalign.models.formats.monai_bundle import encode_architecture_name
    from vfmalign.models.registry import MICRO_INPUT, SINGLE_INPUT, get_architecture

    single = ANATOMIES[anatomy].single
    if name == "ConvNeXt micro":
        return get_architecture("profound_conv_micro_single" if single else "profound_conv_micro")
    preprocessing: Preprocessing = SINGLE_INPUT if single else MICRO_INPUT
    channels = len(preprocessing.modalities)
    if name in RESNETS:
        arguments: dict[str, object] = {
            "block": "basic",
            "layers": RESNETS[name],
            "block_inplanes": [64, 128, 256, 512],
            "n_input_channels": channels,
            "num_classes": 2,
        }
        layers = [f"layer{number}" for number in range(1, 5)]
        return get_architecture(encode_architecture_name("ResNet", arguments, layers, preprocessing))
    arguments = {
        "spatial_dims": 3,
        "init_filters": 8,
        "in_channels": channels,
        "out_channels": 2,
        "blocks_down": [1, 1, 1, 1],
        "blocks_up": [1, 1, 1],
    }
    layers = [f"down_layers.{number}" for number in range(4)]
    return get_architecture(encode_architecture_name("SegResNet", arguments, layers, preprocessing))


def get_metric(anatomy: str) -> MetricSpec:
    """Returns the primary metric of the task on an anatomy."""
    return _get_task(anatomy).primary_metric


def _get_task(anatomy: str) -> TaskSpec:
    return get_task_spec(Task.parse("segmentation"), get_declaration(ANATOMIES[anatomy].declaration))


@lru_cache(maxsize=8)
def _load_cases(anatomy: str, split: str) -> list[PreparedCase]:
    """Returns the prepared cases of one use, always the same."""
    from vfmalign.models.registry import MICRO_INPUT, SINGLE_INPUT
    from vfmalign.training.data import prepare_case

    task, single = _get_task(anatomy), ANATOMIES[anatomy].single
    modality_map = {"t1w": "input"} if single else {}
    declaration = get_declaration(ANATOMIES[anatomy].declaration)
    own: Preprocessing = SINGLE_INPUT if single else MICRO_INPUT
    preprocessing = resolve_input(anatomy, own, modality_map, declaration, "modality_map")
    first = sum(SIZES[earlier] for earlier in list(SIZES)[: list(SIZES).index(split)])
    read = _read_hippocampus if single else _generate_phantom
    cases = []
    for number in range(first, first + SIZES[split]):
        name, volumes = read(number)
        cases.append(prepare_case(volumes, Case(id=name, group=name, volumes={}), task, preprocessing))
    return cases


def _generate_phantom(number: int) -> tuple[str, Mapping[str, Volume]]:
    from vfmalign.imaging.phantoms.rendering import generate_case

    return f"phantom-{number}", generate_case(PHANTOM_SEED, number).volumes


def _read_hippocampus(number: int) -> tuple[str, Mapping[str, Volume]]:
    from vfmalign.imaging.volumes import decode

    path = sorted((HIPPOCAMPUS / "images").glob("*.nii.gz"))[number]
    label = HIPPOCAMPUS / "labels" / path.name
    return path.name.removesuffix(".nii.gz").replace("_", "-"), {
        "t1w": decode(path.read_bytes(), path.name, "t1w"),
        "hippocampus": decode(label.read_bytes(), path.name, "hippocampus", is_label=True),
    }
