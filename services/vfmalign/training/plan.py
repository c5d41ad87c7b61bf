"""Plan of a job: validates the spec against the stored models, and selects the data."""

from __future__ import annotations

from dataclasses import dataclass

from vfmalign.core.domain.datasets import Case, DatasetManifest
from vfmalign.core.domain.errors import BadDataset, BadOption, NotFound, PreconditionFailed
from vfmalign.core.domain.jobs import TrainingSpec
from vfmalign.core.domain.models import ModelCard, Preprocessing, PretrainingDataset
from vfmalign.core.domain.task_specs import TaskSpec
from vfmalign.core.domain.tasks import get_task_spec
from vfmalign.core.storage.datasets import check_leakage, load_dataset
from vfmalign.core.storage.model_cards import load_card
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.core.storage.trainings import (
    check_free,
    check_frozen,
    check_kind,
    check_publication,
    resolve_training,
    select_training_cases,
)
from vfmalign.models.architectures.base import Architecture
from vfmalign.models.registry import get_architecture


@dataclass(frozen=True)
class JobPlan:
    """A validated job.

    Attributes:
        spec: the job.
        architecture: the encoder's architecture. For `specialised`, an architecture with the same input.
        preprocessing: preprocessing of every case. The inputs of the model are named like the dataset's modalities.
        model_input: the same preprocessing with the model's own input names, as in the published card.
        parent: the model from which the job starts; None for random weights.
        task: the task on the dataset for fine-tuning, fitted to its training cases; None for pretraining.
        dataset: the dataset.
    """

    spec: TrainingSpec
    architecture: Architecture
    preprocessing: Preprocessing
    model_input: Preprocessing
    parent: ModelCard | None
    task: TaskSpec | None
    dataset: DatasetManifest

    @property
    def starts_from_random(self) -> bool:
        """Whether the encoder starts from random weights: a baseline, a control or a pretraining."""
        return self.parent is None or self.spec.initial_seed is not None

    @property
    def draws_after_loading(self) -> bool:
        """Whether the job uses a subset of `train` whose classes derive from label maps."""
        case_class = self.task.case_class if self.task is not None else None
        return bool(self.spec.train_cases and case_class is not None and case_class.label)


@dataclass(frozen=True)
class JobData:
    """The cases of a job by use, and the training data to record in the published model's card.

    Attributes:
        train, val: cases for training and for checkpoint selection.
        test: cases for scoring; empty for pretraining, which has no scores.
        pretraining: the datasets on which the published encoder and its parents were trained.
    """

    train: tuple[Case, ...]
    val: tuple[Case, ...]
    test: tuple[Case, ...]
    pretraining: tuple[PretrainingDataset, ...]


def make_plan(store: ObjectStore, spec: TrainingSpec) -> JobPlan:
    """Validates a spec, both on its own and against the stored dataset and models.

    Raises:
        BadOption: fields contradict each other, or a name is unknown.
        BadDataset: the dataset is missing, is damaged or differs from the spec, or a case lacks data for the task.
        NotFound: the model to start from does not exist.
        DigestMismatch: the model's weights differ from those in the spec.
        Conflict: the id for publishing the encoder belongs to another model.
        Leakage: a test case was used in training or validation, or by the model from which the job starts.
    """
    architecture = get_architecture(spec.architecture)
    check_kind(spec.kind, spec.model_id, spec.task)
    check_publication(spec)
    check_frozen(spec)
    check_free(store, spec)
    dataset = _load_dataset(store, spec)
    task = None if spec.task is None else get_task_spec(spec.task, dataset.declaration)
    card = _load_card(store, spec)
    model_input = card.preprocessing if card else architecture.preprocessing
    name = spec.model_id or spec.architecture.partition(":")[0]
    preprocessing = resolve_training(
        dataset, task, name, model_input, modality_map=spec.modality_map, recipes=[spec.recipe]
    )
    # A baseline may name a model as well. It then uses the model's preprocessing, but not its weights.
    parent = card if spec.network == "pretrained" else None
    if task is not None:
        task = task.fit(dataset, select_training_cases(dataset, task, spec.train_cases, spec.seed))
        check_leakage(dataset, parent.pretraining if parent else ())
    return JobPlan(spec, architecture, preprocessing, model_input, parent, task, dataset)


def _load_dataset(store: ObjectStore, spec: TrainingSpec) -> DatasetManifest:
    try:
        return load_dataset(store, spec.dataset_id, digest=spec.dataset_digest)
    except (NotFound, PreconditionFailed) as error:
        raise BadDataset(error.message, subject=error.subject, remedy=error.remedy, reason=error.reason) from error


def _load_card(store: ObjectStore, spec: TrainingSpec) -> ModelCard | None:
    """The card of the model that the spec names, which must be of its architecture."""
    if not spec.model_id:
        if spec.kind == "finetune" and spec.network == "pretrained":
            raise BadOption("required for fine-tuning", field="spec.model_id", remedy="name the pretrained model")
        return None
    card = load_card(store, spec.model_id, spec.model_sha256)
    if card.architecture != spec.architecture:
        raise BadOption(
            "the model has another architecture",
            field="spec.architecture",
            remedy=f"use the model's: {card.architecture}",
        )
    return card


def select_data(plan: JobPlan) -> JobData:
    """Selects the cases that the job uses, before their label maps are read.

    Raises:
        BadOption: see `select_training_cases`.
    """
    spec, dataset = plan.spec, plan.dataset
    train, test = (dataset.pretrain, ()) if plan.task is None else (dataset.train, dataset.test)
    if plan.task is not None and not plan.draws_after_loading:
        train = select_training_cases(dataset, plan.task, spec.train_cases, spec.seed)
    parent_data = plan.parent.pretraining if plan.parent else ()
    record = _to_pretraining_record(spec, dataset, train, dataset.val)
    return JobData(train, dataset.val, test, (*parent_data, record))


def _to_pretraining_record(
    spec: TrainingSpec, dataset: DatasetManifest, train: tuple[Case, ...], val: tuple[Case, ...]
) -> PretrainingDataset:
    """Record of this job's dataset in the published model's card: the cases of training and selection."""
    cases = (*train, *val)
    return PretrainingDataset(
        dataset_id=spec.dataset_id,
        dataset_digest=spec.dataset_digest,
        # Only images: label maps of different patients can be equal, and empty ones always are.
        volume_sha256=tuple(sorted({ref.sha256 for case in cases for ref in dataset.images(case).values()})),
        groups=tuple(sorted({case.group for case in cases})),
    )
