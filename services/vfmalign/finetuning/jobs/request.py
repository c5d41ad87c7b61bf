"""From a requested job to the spec that its training process reads: presets, digests of inputs, shared baselines."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Sequence
from typing import Any

from vfmalign.client.messages.jobs import JobSpec, Recipe
from vfmalign.client.recipes import apply_recipe, get_preset
from vfmalign.core.domain.datasets import DatasetManifest, Split
from vfmalign.core.domain.errors import BadDataset, BadOption, Conflict, DigestMismatch, NotFound, PreconditionFailed
from vfmalign.core.domain.jobs import Network, TrainingRecipe, TrainingSpec, probe_id
from vfmalign.core.domain.modality_map import check_mapped_modalities, resolve_input
from vfmalign.core.domain.models import ModelCard, PreprocessingSpec
from vfmalign.core.domain.recipes import (
    check_patch,
    fit_patch,
    get_finetuning_recipe,
    get_pretraining_recipe,
)
from vfmalign.core.domain.record import Record, is_id
from vfmalign.core.domain.tasks import get_task_spec
from vfmalign.core.storage.datasets import load_dataset
from vfmalign.core.storage.keys import model_card_key
from vfmalign.core.storage.store.object_store import ObjectStore

DEFAULT_ARCHITECTURE = "profound_conv_micro"
NETWORKS: tuple[Network, ...] = ("pretrained", "scratch", "specialised")
FINETUNING_SPLITS: tuple[Split, ...] = ("train", "val", "test")
_JOB_OF_CHECK = re.compile(rf"-({'|'.join(NETWORKS)})(-s\d+)?$")


def to_recipe(recipe: TrainingRecipe, preset: str) -> Recipe:
    """Returns the request of a recipe with every field set, so that a later change of the preset does not change it."""
    fields = recipe.model_dump(include=set(Recipe.model_fields))
    return Recipe.model_validate(fields | {"preset": preset, "patch_shape_dhw": recipe.patch_shape_DHW or ()})


def check_job_id(job_id: str) -> None:
    """Checks that a client did not choose an id that a check gives to its own jobs.

    Raises:
        BadOption: it ends as the ids of such jobs do (`checks.trainings`).
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
        BadOption: it is neither masked reconstruction nor contrastive.
    """
    if spec.kind == "pretrain" and spec.objective not in {"masked_reconstruction", "contrastive"}:
        raise BadOption(
            "unsupported objective for pretraining",
            field="spec.objective",
            remedy="choose masked_reconstruction or contrastive",
        )


def load_card(store: ObjectStore, model: str, sha256: str = "") -> ModelCard:
    """Reads a model's card and checks the digest of its weights.

    Raises:
        NotFound: the model does not exist.
        DigestMismatch: its weights have another digest.
    """
    try:
        card = store.read(model_card_key(model), ModelCard)
    except NotFound as error:
        raise NotFound(
            "no such model", subject=model, remedy="run `vfmalign models list` to see the known ids"
        ) from error
    if sha256 and card.checkpoint.sha256 != sha256:
        raise DigestMismatch(
            f"the stored weights have SHA-256 {card.checkpoint.sha256[:12]}…, requested {sha256[:12]}…",
            subject=model,
            remedy="request the stored version, or import the weights again",
        )
    return card


def check_splits(dataset: DatasetManifest, splits: Sequence[Split]) -> None:
    """Checks that splits have cases.

    Raises:
        BadDataset: one holds no case.
    """
    for split in splits:
        if not getattr(dataset, split):
            raise BadDataset(
                f"the split {split!r} holds no case",
                field="spec.dataset_id",
                subject=dataset.id,
                remedy="import the dataset again with a case in this split (`--share`, `--splits`)",
            )


def resolve_job(store: ObjectStore, job_id: str, request: JobSpec) -> TrainingSpec:
    """Returns the spec of a requested job, with the digests of its inputs as stored now.

    Raises:
        BadOption: fields that do not fit together, or a task that does not fit the dataset or the model.
        BadDataset: a split without a case, or a case that lacks what the task needs.
        NotFound: the model or dataset does not exist.
        DigestMismatch: one of them has another digest than requested.
        Conflict: another model has the id under which the encoder is to be published.
    """
    dataset = load_dataset(store, request.dataset_id, request.dataset_digest or None)
    check_mapped_modalities(request.modality_map, dataset.declaration, "spec.modality_map")
    if request.kind == "pretrain":
        spec = _pretraining_spec(job_id, request, dataset.digest())
        check_splits(dataset, ("pretrain", "val"))
        return _check_publication(store, spec)
    if not request.model_id:
        raise BadOption("required for fine-tuning", field="spec.model_id", remedy="name the pretrained model")
    if request.task is None:
        raise BadOption("required for fine-tuning", field="spec.task", remedy="name the task")
    task = get_task_spec(str(request.task), dataset.declaration)
    preset = get_finetuning_recipe(request.network, task.name, get_preset(request.recipe))
    card = load_card(store, request.model_id, request.model_sha256)
    recipe = apply_recipe(request.recipe, fit_patch(preset, card.preprocessing.shape_DHW))
    check_patch(recipe, card.preprocessing.shape_DHW)
    task.check_cases(dataset)
    model_input = resolve_input(
        card.id, card.preprocessing, request.modality_map, dataset.declaration, "spec.modality_map"
    )
    task.check_input(card.id, model_input.modalities)
    check_splits(dataset, FINETUNING_SPLITS)
    return _check_publication(store, finetuning_spec(job_id, request, card, dataset.digest(), recipe))


def finetuning_spec(
    job_id: str, request: JobSpec, card: ModelCard, digest: str, recipe: TrainingRecipe
) -> TrainingSpec:
    """Returns the spec of a fine-tuning job.

    Args:
        job_id: the job.
        request: the requested job.
        card: of the model it starts from, or whose architecture or input preparation it shares.
        digest: of the dataset.
        recipe: how to train.
    """
    specialised = request.network == "specialised"
    if specialised and request.publish_as:
        raise BadOption("a specialised network has no encoder to publish", field="spec.publish_as")
    if specialised and recipe.probe_steps:
        raise BadOption(
            "a specialised network has no encoder to probe", field="spec.recipe.probe_steps", remedy="omit them"
        )
    publish_as = "" if specialised else request.publish_as or f"{job_id}-encoder"
    if recipe.probe_steps and not is_id(probe_id(publish_as, recipe.probe_steps[-1])):
        raise BadOption(
            "too long for the ids of its probes", field="spec.publish_as", remedy="use at most 100 characters"
        )
    return TrainingSpec(
        id=job_id,
        kind="finetune",
        dataset=request.dataset_id,
        dataset_digest=digest,
        architecture=card.architecture,
        network=request.network,
        model=card.id,
        model_sha256=card.checkpoint.sha256,
        task=str(request.task or ""),
        recipe=recipe,
        seed=request.seed,
        modality_map=request.modality_map,
        shuffled_labels=request.shuffled_labels,
        allow_cut_organs=request.allow_cut_organs,
        publish_as=publish_as,
    )


class BaselineTraining(Record):
    """Everything that the training of a baseline depends on: equal values give equal results.

    Attributes:
        version: of vfmalign.
        spec: the job's, without its own names, without the model that is checked against it, whose weights are never
            read, and for a specialised network without the model's architecture.
        preprocessing: how inputs are prepared.
    """

    version: str
    spec: dict[str, Any]
    preprocessing: PreprocessingSpec


def baseline_digest(spec: TrainingSpec, card: ModelCard) -> str:
    """Returns the SHA-256 digest by which checks recognise that they share a baseline."""
    own = {"id", "publish_as", "model", "model_sha256"} | ({"architecture"} if spec.network == "specialised" else set())
    return BaselineTraining(
        version=importlib.metadata.version("vfmalign"),
        spec=spec.model_dump(mode="json", exclude=own),
        preprocessing=card.preprocessing,
    ).digest()


def _check_publication(store: ObjectStore, spec: TrainingSpec) -> TrainingSpec:
    """Returns the spec if its encoder can be published: before the training rather than after it."""
    try:
        card = store.read(model_card_key(spec.publish_as), ModelCard) if spec.publish_as else None
    except (NotFound, PreconditionFailed):  # a damaged card is replaced
        return spec
    if card is not None and card.source != f"job {spec.id}":
        raise Conflict(
            "another model is published under this id",
            subject=spec.publish_as,
            remedy="choose another id for the model to publish",
        )
    return spec


def _pretraining_spec(job_id: str, request: JobSpec, digest: str) -> TrainingSpec:
    if request.model_id or request.task:
        raise BadOption("only fine-tuning has a model and a task", field="spec.kind", remedy="leave them empty")
    if request.recipe.probe_steps:
        raise BadOption("only fine-tuning is probed", field="spec.recipe.probe_steps", remedy="omit them")
    architecture = request.architecture or DEFAULT_ARCHITECTURE
    base = get_pretraining_recipe(request.objective, architecture, get_preset(request.recipe))
    return TrainingSpec(
        id=job_id,
        kind="pretrain",
        dataset=request.dataset_id,
        dataset_digest=digest,
        architecture=architecture,
        objective=request.objective,
        network="scratch",
        recipe=apply_recipe(request.recipe, base),
        seed=request.seed,
        modality_map=request.modality_map,
        publish_as=request.publish_as or f"{job_id}-encoder",
    )
