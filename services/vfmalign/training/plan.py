"""From a job's spec to what it needs: validation against the stored models, and selection of the data."""

from __future__ import annotations

from dataclasses import dataclass

from vfmalign.core.domain.datasets import Case, DatasetManifest
from vfmalign.core.domain.errors import BadDataset, BadOption, Conflict, NotFound, PreconditionFailed
from vfmalign.core.domain.jobs import TrainingSpec, probe_id
from vfmalign.core.domain.modality_map import resolve_input
from vfmalign.core.domain.models import ModelCard, PreprocessingSpec, PretrainingDataset
from vfmalign.core.domain.recipes import check_patch, check_probe_steps
from vfmalign.core.domain.record import ID, is_id
from vfmalign.core.domain.tasks import TaskSpec, get_task_spec
from vfmalign.core.storage.datasets import check_leakage, load_dataset
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.models.architectures.base import Architecture
from vfmalign.models.cards import check_checkpoint_digest, load_card
from vfmalign.models.registry import get_architecture

_PUBLISH_AS_REMEDY = (
    "name the model to publish the encoder as; leave it empty for a specialised network, which has none"
)


@dataclass(frozen=True)
class JobPlan:
    """A validated job.

    Attributes:
        spec: the job.
        architecture: the encoder's architecture (for `specialised`: the one whose input it shares).
        preprocessing: preprocessing of every case, with its inputs named as the dataset's modalities.
        model_input: the same with the model's own names, as the published card states it.
        parent: the model from which it starts, None for random weights.
        task: the task of a fine-tuning on the dataset, None for pretraining.
        dataset: the dataset.
    """

    spec: TrainingSpec
    architecture: Architecture
    preprocessing: PreprocessingSpec
    model_input: PreprocessingSpec
    parent: ModelCard | None
    task: TaskSpec | None
    dataset: DatasetManifest


@dataclass(frozen=True)
class JobData:
    """The cases of a job by use, and the training data to record in the published model's card.

    Attributes:
        train, val: cases for training and for checkpoint selection.
        test: cases for scoring; empty for pretraining, which has no score.
        pretraining: the datasets that the published encoder was trained on, including those of its parent.
    """

    train: tuple[Case, ...]
    val: tuple[Case, ...]
    test: tuple[Case, ...]
    pretraining: tuple[PretrainingDataset, ...]


def make_plan(store: ObjectStore, spec: TrainingSpec) -> JobPlan:
    """Validates a spec on its own and against the stored models.

    Raises:
        BadOption: fields do not fit together, or a name is unknown.
        BadDataset: the dataset is missing, damaged or different from the spec's.
        NotFound: the model to start from does not exist.
        DigestMismatch: its weights differ from those in the spec.
        Conflict: an id under which the encoder is to be published belongs to another model.
    """
    architecture = get_architecture(spec.architecture)
    finetunes = spec.kind == "finetune"
    dataset = _load_dataset(store, spec)
    task = get_task_spec(spec.task, dataset.declaration) if finetunes else None
    _check_publications(store, spec)
    _require(finetunes or not spec.model, "model", "leave it empty: pretraining starts from random weights")
    starts_from_model = finetunes and spec.network == "pretrained"
    _require(bool(spec.model) or not starts_from_model, "model", "name the pretrained model to start from")
    # A baseline may name a model as well. It then uses the model's preprocessing, but not its weights.
    card = load_card(store, spec.model) if spec.model else None
    if card is not None:
        check_checkpoint_digest(card, spec.model_sha256)
        _require(card.architecture == spec.architecture, "architecture", f"use the model's: {card.architecture}")
    model_input = card.preprocessing if card else architecture.preprocessing
    name = spec.model or spec.architecture.partition(":")[0]
    preprocessing = resolve_input(name, model_input, spec.modality_map, dataset.declaration)
    if task is not None:
        task.check_input(spec.model or spec.architecture, preprocessing.modalities)
    check_patch(spec.recipe, preprocessing.shape_DHW)
    parent = card if starts_from_model else None
    return JobPlan(spec, architecture, preprocessing, model_input, parent, task, dataset)


def _load_dataset(store: ObjectStore, spec: TrainingSpec) -> DatasetManifest:
    try:
        return load_dataset(store, spec.dataset, digest=spec.dataset_digest)
    except (NotFound, PreconditionFailed) as error:
        raise BadDataset(error.message, subject=error.subject, remedy=error.remedy, reason=error.reason) from error


def _check_publications(store: ObjectStore, spec: TrainingSpec) -> None:
    """Checks the ids under which the job will publish its encoder and probes."""
    finetunes = spec.kind == "finetune"
    specialised = finetunes and spec.network == "specialised"
    _require(specialised == (not spec.publish_as), "publish_as", _PUBLISH_AS_REMEDY)
    _require(specialised or is_id(spec.publish_as), "publish_as", ID.remedy)
    check_probe_steps(spec.recipe)
    published = publications(spec)
    _require(
        not spec.recipe.probe_steps or (finetunes and not specialised and all(is_id(model) for model in published)),
        "recipe.probe_steps",
        "leave them out, or fine-tune an encoder and give it a short publish_as",
    )
    for model, source in published.items():
        _check_id_available(store, model, source)


def select_data(plan: JobPlan) -> JobData:
    """Selects the splits that the job uses.

    Raises:
        BadDataset: the dataset lacks cases that the job needs, or a case lacks what the task needs.
        Leakage: the model from which the job starts was trained on a test case.
    """
    spec, dataset = plan.spec, plan.dataset
    parent_data = plan.parent.pretraining if plan.parent else ()
    if plan.task is None:
        train, val = _require_cases(dataset, "pretrain"), _require_cases(dataset, "val")
        return JobData(train, val, (), (_to_pretraining_record(spec, dataset, train, val),))
    plan.task.check_cases(dataset)
    check_leakage(dataset, parent_data)
    train, val, test = _require_cases(dataset, "train"), _require_cases(dataset, "val"), _require_cases(dataset, "test")
    return JobData(train, val, test, (*parent_data, _to_pretraining_record(spec, dataset, train, val)))


def _require_cases(dataset: DatasetManifest, split: str) -> tuple[Case, ...]:
    cases: tuple[Case, ...] = getattr(dataset, split)
    if not cases:
        raise BadDataset(
            f"the split {split!r} has no cases",
            subject=f"dataset {dataset.id}",
            remedy="add at least one case to the split",
        )
    return cases


def _to_pretraining_record(
    spec: TrainingSpec, dataset: DatasetManifest, train: tuple[Case, ...], val: tuple[Case, ...]
) -> PretrainingDataset:
    """Record of this job's dataset in the published model's card: the cases of training and selection."""
    cases = (*train, *val)
    return PretrainingDataset(
        dataset=spec.dataset,
        dataset_digest=spec.dataset_digest,
        # Only images: label maps of different patients can be equal, and empty ones always are.
        volume_sha256=tuple(sorted({ref.sha256 for case in cases for ref in dataset.images(case).values()})),
        groups=tuple(sorted({case.group for case in cases})),
    )


def publications(spec: TrainingSpec) -> dict[str, str]:
    """Ids of the models that a job publishes, with the `source` of their cards."""
    if not spec.publish_as:
        return {}
    probes = {probe_id(spec.publish_as, step): f"job {spec.id}, step {step}" for step in spec.recipe.probe_steps}
    return probes | {spec.publish_as: f"job {spec.id}"}


def model_id_conflict(model: str) -> Conflict:
    """The error of a job whose model id is already in use."""
    return Conflict(
        "another model is published under this id", subject=model, remedy="choose another id for the model to publish"
    )


def _check_id_available(store: ObjectStore, model: str, source: str) -> None:
    """Rejects an id that belongs to another model before the training rather than after it."""
    try:
        card = load_card(store, model)
    except (NotFound, PreconditionFailed):  # a damaged card is replaced
        return
    if card.source != source:
        raise model_id_conflict(model)


def _require(holds: bool, field: str, remedy: str) -> None:
    if not holds:
        raise BadOption("the field does not fit the rest of the spec", field=field, remedy=remedy)
