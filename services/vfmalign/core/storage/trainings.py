"""Rules for trainings, about the dataset, task, model input, patches and published model.

Services apply these rules before they store a request. The training process applies the rules again, because a spec may
be old or handwritten.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress

from vfmalign.core.domain.datasets import Case, DatasetManifest, Split
from vfmalign.core.domain.declarations import Modality
from vfmalign.core.domain.errors import BadDataset, BadOption, Conflict, NotFound, PreconditionFailed
from vfmalign.core.domain.jobs import JobKind, TrainingRecipe, TrainingSpec
from vfmalign.core.domain.modality_map import resolve_input
from vfmalign.core.domain.models import ModelCard, Preprocessing
from vfmalign.core.domain.recipes import check_patch
from vfmalign.core.domain.record import is_id
from vfmalign.core.domain.task_specs import FINETUNING_SPLITS, TaskSpec
from vfmalign.core.domain.task_text import Task
from vfmalign.core.domain.training_subsets import draw_subset
from vfmalign.core.storage.model_cards import load_card
from vfmalign.core.storage.store.object_store import ObjectStore

MAP_FIELD = "spec.modality_map"
_SPLITS: dict[JobKind, tuple[Split, ...]] = {"pretrain": ("pretrain", "val"), "finetune": FINETUNING_SPLITS}


def resolve_training(
    dataset: DatasetManifest,
    task: TaskSpec | None,
    model: str,
    preprocessing: Preprocessing,
    *,
    modality_map: Mapping[Modality, Modality],
    recipes: Sequence[TrainingRecipe],
) -> Preprocessing:
    """Checks that a training is possible with its dataset (`check_data`) and its model (`fit_model`).

    Returns the model's input. This function does not check for leakage. Checks and jobs look for leakage when they
    begin (`datasets.check_leakage`). An experiment may contain a model that has seen test cases. The report states for
    the cell of such a model that the model has seen test cases.

    Args:
        dataset: the stored dataset.
        task: task on this dataset (`get_task_spec`); None for pretraining.
        model: id of the model, or name of the architecture if training starts from random weights; for error messages.
        preprocessing: preprocessing of the model, from its card or architecture.
        modality_map: maps modalities of the dataset to names of the model's inputs.
        recipes: recipes of the trainings. The trainings are otherwise the same.

    Returns:
        The preprocessing, with the model's inputs renamed to the dataset's modalities.

    Raises:
        BadDataset: a split has no case, or a case does not have a label map or class that the task needs.
        BadOption: the modality map or a patch is invalid for the model, or the task cannot use the model's input.
    """
    check_data(dataset, task)
    return fit_model(dataset, task, model, preprocessing, modality_map=modality_map, recipes=recipes)


def check_data(dataset: DatasetManifest, task: TaskSpec | None) -> None:
    """Checks that every split has cases, and that every case has the label maps or class that the task needs.

    Raises:
        BadDataset: a split has no case, or a case does not have a label map or class that the task needs.
    """
    check_splits(dataset, "pretrain" if task is None else "finetune")
    if task is not None:
        task.check_cases(dataset)


def select_training_cases(dataset: DatasetManifest, task: TaskSpec, count: int, seed: int) -> tuple[Case, ...]:
    """Selects the cases of `train` that a training uses: all, or a subset (`training_subsets`).

    If the class derives from label maps, the cases are not stratified. The training process then draws again, after it
    has read the maps.

    Args:
        dataset: dataset that passed `check_data`.
        task: task on this dataset.
        count: number of training cases; 0 for all.
        seed: seed of the training.

    Raises:
        BadOption: `train` has fewer cases, or a class would have no case.
    """
    if not count:
        return dataset.train
    groups, strata = [case.group for case in dataset.train], [task.get_stratum(case) for case in dataset.train]
    return tuple(dataset.train[place] for place in draw_subset(groups, strata, count, seed))


def fit_model(
    dataset: DatasetManifest,
    task: TaskSpec | None,
    model: str,
    preprocessing: Preprocessing,
    *,
    modality_map: Mapping[Modality, Modality],
    recipes: Sequence[TrainingRecipe],
) -> Preprocessing:
    """Checks that a task can use a model on a dataset that passed `check_data`. See `resolve_training`.

    Raises:
        BadOption: the modality map or a patch is invalid for the model, or the task cannot use the model's input.
    """
    model_input = resolve_input(model, preprocessing, modality_map, dataset.declaration, MAP_FIELD)
    if task is not None:
        task.check_input(model, model_input.modalities)
    for recipe in recipes:
        check_patch(recipe, model_input)
    return model_input


def check_kind(kind: JobKind, model_id: str, task: Task | None) -> None:
    """Checks that a pretraining has neither a model nor a task, and that a fine-tuning has a task.

    Raises:
        BadOption: a pretraining has a model or a task, or a fine-tuning has no task.
    """
    if kind == "pretrain" and (model_id or task):
        raise BadOption(
            "a pretraining starts from random weights, and takes neither a model nor a task",
            field="spec.kind",
            remedy="leave them empty",
        )
    if kind == "finetune" and task is None:
        raise BadOption("required for fine-tuning", field="spec.task", remedy="name the task")


def check_splits(dataset: DatasetManifest, kind: JobKind) -> None:
    """Checks that each split that a training uses has at least one case.

    Raises:
        BadDataset: a split has no case.
    """
    for split in _SPLITS[kind]:
        if not dataset.split(split):
            raise BadDataset(
                f"the split {split!r} holds no case",
                field="spec.dataset_id",
                subject=dataset.id,
                remedy="import the dataset again with a case in this split (`--share`, `--splits`)",
            )


def check_frozen(spec: TrainingSpec) -> None:
    """Checks that a training with a frozen encoder has a pretrained or random encoder, and a head to train.

    Raises:
        BadOption: a pretraining or a specialised network is frozen.
    """
    if spec.frozen and (spec.kind == "pretrain" or spec.network == "specialised"):
        reason = "a pretraining trains the encoder" if spec.kind == "pretrain" else "a specialised network has none"
        raise BadOption(f"there is no encoder to freeze: {reason}", field="spec.frozen", remedy="leave it out")


def get_source(spec: TrainingSpec) -> str:
    """Returns the `source` for the card of the model that a job publishes."""
    return f"job {spec.job_id}"


def check_publication(spec: TrainingSpec) -> None:
    """Checks the id under which a job publishes its encoder. A specialised network has no encoder to publish.

    Raises:
        BadOption: a specialised network has an id, or the id is missing or malformed.
    """
    if spec.kind == "finetune" and spec.network == "specialised":
        if spec.publish_as:
            raise BadOption(
                "a specialised network has no encoder to publish", field="spec.publish_as", remedy="leave it empty"
            )
    elif not is_id(spec.publish_as):
        raise BadOption(
            "the id of the model to publish is missing or malformed",
            field="spec.publish_as",
            remedy="name the model to publish the encoder as, in lower-case letters, digits, `_`, `.` and `-`",
        )


def check_free(store: ObjectStore, spec: TrainingSpec) -> None:
    """Checks before a training that no other model has the id under which the training will publish.

    Raises:
        Conflict: another model has this id.
    """
    if spec.publish_as:
        with suppress(NotFound, PreconditionFailed):  # a damaged card is replaced
            check_source(load_card(store, spec.publish_as), spec)


def check_source(card: ModelCard, spec: TrainingSpec) -> None:
    """Checks that a stored model was published by this job.

    Raises:
        Conflict: the stored model is from another source.
    """
    if card.source != get_source(spec):
        raise Conflict(
            "another model is published under this id",
            subject=card.id,
            remedy="choose another id for the model to publish",
        )
