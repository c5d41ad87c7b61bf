"""Converts a requested job to the spec that its training process reads: presets, input digests, shared baselines."""

from __future__ import annotations

import importlib.metadata
import re

from pydantic import Field, JsonValue

from vfmalign.client.messages.jobs import JobSpec
from vfmalign.client.recipes import apply_recipe, get_preset
from vfmalign.core.domain.datasets import DatasetManifest
from vfmalign.core.domain.errors import BadOption
from vfmalign.core.domain.jobs import Network, TrainingRecipe, TrainingSpec
from vfmalign.core.domain.modality_map import check_mapped_modalities
from vfmalign.core.domain.models import ModelCard, Preprocessing
from vfmalign.core.domain.recipes import fit_patch, get_finetuning_recipe, get_pretraining_recipe
from vfmalign.core.domain.record import Record
from vfmalign.core.domain.task_text import Task
from vfmalign.core.domain.tasks import get_task_spec
from vfmalign.core.storage.datasets import load_dataset
from vfmalign.core.storage.model_cards import load_card
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.core.storage.trainings import (
    MAP_FIELD,
    check_free,
    check_frozen,
    check_kind,
    check_publication,
    check_splits,
    resolve_training,
    select_training_cases,
)

DEFAULT_ARCHITECTURE = "profound_conv_micro"
NETWORKS: tuple[Network, ...] = ("pretrained", "scratch", "specialised")
_JOB_OF_CHECK = re.compile(rf"-({'|'.join(NETWORKS)})(-frozen)?(-[rs]\d+)?$")


def check_job_id(job_id: str) -> None:
    """Rejects an id that is reserved for the jobs of checks.

    Raises:
        BadOption: the id has an ending that is reserved for the jobs of checks (`checks.trainings`).
    """
    if ending := _JOB_OF_CHECK.search(job_id):
        raise BadOption(
            f"ids that end in {ending[0]} belong to the jobs of checks",
            field="job_id",
            remedy="choose an id with another ending",
        )


def check_objective(spec: JobSpec) -> None:
    """Checks the objective of a pretraining job.

    Raises:
        BadOption: the objective is neither masked reconstruction nor contrastive.
    """
    if spec.kind == "pretrain" and spec.objective not in {"masked_reconstruction", "contrastive"}:
        raise BadOption(
            "unsupported objective for pretraining",
            field="spec.objective",
            remedy="choose masked_reconstruction or contrastive",
        )


def resolve_job(store: ObjectStore, job_id: str, request: JobSpec) -> TrainingSpec:
    """Returns the spec of a requested job, with the current digests of its inputs.

    Raises:
        BadOption: fields contradict each other, or the task does not fit the dataset or the model.
        BadDataset: a split has no case, or a case lacks data that the task needs.
        NotFound: the model or dataset does not exist.
        DigestMismatch: the model or the dataset has a different digest than requested.
        Conflict: the job would publish its model under an id that belongs to another model.
    """
    check_kind(request.kind, request.model_id, request.task)
    dataset = load_dataset(store, request.dataset_id, request.dataset_digest or None)
    if request.task is None:
        spec = _resolve_pretraining(job_id, request, dataset)
    else:
        spec = _resolve_finetuning(store, job_id, request, request.task, dataset)
    check_free(store, spec)
    return spec


def _resolve_finetuning(
    store: ObjectStore, job_id: str, request: JobSpec, task: Task, dataset: DatasetManifest
) -> TrainingSpec:
    if not request.model_id:
        raise BadOption("required for fine-tuning", field="spec.model_id", remedy="name the pretrained model")
    resolved = get_task_spec(task, dataset.declaration)
    card = load_card(store, request.model_id, request.model_sha256)
    preset = get_finetuning_recipe(request.network, task.name, get_preset(request.recipe))
    recipe = apply_recipe(request.recipe, fit_patch(preset, card.preprocessing))
    resolve_training(
        dataset, resolved, card.id, card.preprocessing, modality_map=request.modality_map, recipes=[recipe]
    )
    select_training_cases(dataset, resolved, request.train_cases, request.seed)
    return finetuning_spec(job_id, request, card, dataset.digest(), recipe)


def finetuning_spec(
    job_id: str, request: JobSpec, card: ModelCard, digest: str, recipe: TrainingRecipe
) -> TrainingSpec:
    """Returns the spec of a fine-tuning job.

    Args:
        job_id: the job.
        request: the requested job.
        card: card of the model from which the job takes its weights, its architecture or its input preparation.
        digest: digest of the dataset.
        recipe: how to train.

    Raises:
        BadOption: the network has no encoder to publish or to freeze, or the encoder's id is invalid; see
            `check_publication` and `check_frozen`.
    """
    encoder = "" if request.network == "specialised" else f"{job_id}-encoder"
    return _make_spec(
        request,
        job_id=job_id,
        dataset_digest=digest,
        architecture=card.architecture,
        objective="supervised",
        model_id=card.id,
        model_sha256=card.checkpoint.sha256,
        recipe=recipe,
        publish_as=request.publish_as or encoder,
    )


def _resolve_pretraining(job_id: str, request: JobSpec, dataset: DatasetManifest) -> TrainingSpec:
    # The input of the architecture is unknown without torch: the training process checks map and patches against it.
    check_mapped_modalities(request.modality_map, dataset.declaration, MAP_FIELD)
    check_splits(dataset, "pretrain")
    architecture = request.architecture or DEFAULT_ARCHITECTURE
    preset = get_pretraining_recipe(request.objective, architecture, get_preset(request.recipe))
    return _make_spec(
        request,
        job_id=job_id,
        dataset_digest=dataset.digest(),
        architecture=architecture,
        network="scratch",
        model_sha256="",
        shuffled_labels=False,
        train_cases=0,
        allow_cut_organs=False,
        recipe=apply_recipe(request.recipe, preset),
        publish_as=request.publish_as or f"{job_id}-encoder",
    )


def _make_spec(request: JobSpec, **resolved: object) -> TrainingSpec:
    """Returns the spec of a request: the fields with the same names, and defaults for fields that are not set."""
    fields = request.model_dump(include=set(TrainingSpec.model_fields) - set(resolved))
    spec = TrainingSpec.model_validate(fields | resolved)
    check_publication(spec)
    check_frozen(spec)
    return spec


class BaselineTraining(Record):
    """All inputs that determine the result of a baseline training. Equal inputs give equal results.

    Attributes:
        version: version of vfmalign.
        spec: spec of the job without the fields that name this job. The spec of a baseline also omits the model to
            compare, because a baseline does not read the weights of this model. The spec of a specialised network also
            omits the architecture of the model.
        preprocessing: how inputs are prepared.
        check_id: id of the check if only the jobs of this check share the training, as for a pretrained network.
    """

    version: str
    spec: dict[str, JsonValue]
    preprocessing: Preprocessing
    check_id: str = Field(default="", exclude_if=lambda check_id: not check_id)


def baseline_digest(spec: TrainingSpec, card: ModelCard, check_id: str = "") -> str:
    """Returns a SHA-256 digest. Two jobs have the same digest if they would train the same network.

    Args:
        spec: spec of a job.
        card: card of the model whose input preparation the job uses.
        check_id: id of the check if only the jobs of this check share the training; empty if all checks share it.
    """
    own = {"job_id", "publish_as"}
    own |= set() if spec.network == "pretrained" else {"model_id", "model_sha256"}
    own |= {"architecture"} if spec.network == "specialised" else set()
    return BaselineTraining(
        version=importlib.metadata.version("vfmalign"),
        spec=spec.model_dump(mode="json", exclude=own),
        preprocessing=card.preprocessing,
        check_id=check_id,
    ).digest()
