"""What a training may be: the rules on its dataset, its task, its model's input, its patches and what it publishes.

Services apply them before they store a request. The training process applies them again, because a spec may be old or
written by hand (docs/adr/0095-*.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vfmalign.core.domain.datasets import DatasetManifest, Split
from vfmalign.core.domain.declarations import Modality
from vfmalign.core.domain.errors import BadDataset, BadOption, Conflict, NotFound, PreconditionFailed
from vfmalign.core.domain.jobs import JobKind, TrainingRecipe, TrainingSpec, probe_id
from vfmalign.core.domain.modality_map import resolve_input
from vfmalign.core.domain.models import ModelCard, Preprocessing
from vfmalign.core.domain.recipes import check_patch, check_probe_steps
from vfmalign.core.domain.record import is_id
from vfmalign.core.domain.task_text import Task
from vfmalign.core.domain.tasks import FINETUNING_SPLITS, TaskSpec
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
    """Checks that a training fits its dataset (`check_data`) and its model (`fit_model`); returns the model's input.

    Leakage is not checked here but where a check or a job begins (`datasets.check_leakage`): an experiment may
    hold a model that has seen test cases, and its report says so of that cell.

    Args:
        dataset: the stored dataset.
        task: the task on this dataset (`get_task_spec`); None for pretraining.
        model: id of the model, or name of the architecture that is trained from random weights, for errors.
        preprocessing: its own, from the card or the architecture.
        modality_map: names of the model's inputs by modality of the dataset.
        recipes: the trainings, which share everything else.

    Returns:
        The preprocessing with the model's inputs named as the dataset's modalities.

    Raises:
        BadDataset: a split without a case, or a case without what the task needs.
        BadOption: the map, the model's input or a patch does not fit.
    """
    check_data(dataset, task)
    return fit_model(dataset, task, model, preprocessing, modality_map=modality_map, recipes=recipes)


def check_data(dataset: DatasetManifest, task: TaskSpec | None) -> None:
    """Checks that every split has cases, and every case what the task needs; looks at every case.

    Raises:
        BadDataset: a split without a case, or a case without what the task needs.
    """
    check_splits(dataset, "pretrain" if task is None else "finetune")
    if task is not None:
        task.check_cases(dataset)


def fit_model(
    dataset: DatasetManifest,
    task: TaskSpec | None,
    model: str,
    preprocessing: Preprocessing,
    *,
    modality_map: Mapping[Modality, Modality],
    recipes: Sequence[TrainingRecipe],
) -> Preprocessing:
    """Checks that a model fits a task on a dataset whose cases are checked; arguments and result as above.

    Raises:
        BadOption: the map, the model's input or a patch does not fit.
    """
    model_input = resolve_input(model, preprocessing, modality_map, dataset.declaration, MAP_FIELD)
    if task is not None:
        task.check_input(model, model_input.modalities)
    for recipe in recipes:
        check_patch(recipe, model_input.shape_dhw)
    return model_input


def check_kind(kind: JobKind, model_id: str, task: Task | None, probe_steps: Sequence[int]) -> None:
    """Checks what a pretraining must not have and a fine-tuning must.

    Raises:
        BadOption: a pretraining has a model, a task or probes, or a fine-tuning has no task.
    """
    if kind == "pretrain" and probe_steps:
        raise BadOption("only fine-tuning is probed", field="spec.recipe.probe_steps", remedy="omit them")
    if kind == "pretrain" and (model_id or task):
        raise BadOption(
            "only fine-tuning has a model and a task: pretraining starts from random weights",
            field="spec.kind",
            remedy="leave them empty",
        )
    if kind == "finetune" and task is None:
        raise BadOption("required for fine-tuning", field="spec.task", remedy="name the task")


def check_splits(dataset: DatasetManifest, kind: JobKind) -> None:
    """Checks that every split that a training uses has a case.

    Raises:
        BadDataset: one holds no case.
    """
    for split in _SPLITS[kind]:
        if not dataset.split(split):
            raise BadDataset(
                f"the split {split!r} holds no case",
                field="spec.dataset_id",
                subject=dataset.id,
                remedy="import the dataset again with a case in this split (`--share`, `--splits`)",
            )


def list_publications(spec: TrainingSpec) -> dict[str, str]:
    """Returns the ids of the models that a job publishes, with the `source` of their cards."""
    if not spec.publish_as:
        return {}
    probes = {probe_id(spec.publish_as, step): f"job {spec.job_id}, step {step}" for step in spec.recipe.probe_steps}
    return probes | {spec.publish_as: f"job {spec.job_id}"}


def check_publications(spec: TrainingSpec) -> None:
    """Checks what a job publishes: its encoder, unless the network has none, and the encoder after every probe step.

    Raises:
        BadOption: the ids do not fit the network, or are not ids; or the probe steps are wrong.
    """
    if spec.kind == "finetune" and spec.network == "specialised":
        _check_unpublished(spec)
        return
    if not is_id(spec.publish_as):
        raise BadOption(
            "the id of the model to publish is missing or malformed",
            field="spec.publish_as",
            remedy="name the model to publish the encoder as, in lower-case letters, digits, `_`, `.` and `-`",
        )
    check_probe_steps(spec.recipe)
    if not all(map(is_id, list_publications(spec))):
        raise BadOption(
            "too long for the ids of its probes", field="spec.publish_as", remedy="use at most 100 characters"
        )


def check_free(store: ObjectStore, spec: TrainingSpec) -> None:
    """Checks the ids under which a job will publish, before the training rather than after it.

    Raises:
        Conflict: one belongs to another model.
    """
    for model_id, source in list_publications(spec).items():
        try:
            card = load_card(store, model_id)
        except (NotFound, PreconditionFailed):  # a damaged card is replaced
            continue
        check_source(card, source)


def check_source(card: ModelCard, source: str) -> None:
    """Checks that a stored model is the one that a job publishes.

    Raises:
        Conflict: it has another source.
    """
    if card.source != source:
        raise Conflict(
            "another model is published under this id",
            subject=card.id,
            remedy="choose another id for the model to publish",
        )


def _check_unpublished(spec: TrainingSpec) -> None:
    if spec.publish_as:
        raise BadOption(
            "a specialised network has no encoder to publish", field="spec.publish_as", remedy="leave it empty"
        )
    if spec.recipe.probe_steps:
        raise BadOption(
            "a specialised network has no encoder to probe", field="spec.recipe.probe_steps", remedy="omit them"
        )
