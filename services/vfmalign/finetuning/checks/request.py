"""Validation of a requested check and of the inputs that it names."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase

from vfmalign.client.messages.checks import CheckSpec, TrainingPlan
from vfmalign.client.recipes import get_random_seeds, get_recipe
from vfmalign.core.domain.datasets import DatasetManifest
from vfmalign.core.domain.errors import BadOption, Unavailable
from vfmalign.core.domain.jobs import Network, TrainingRecipe
from vfmalign.core.domain.models import EXPORTED_PROGRAM, ModelCard
from vfmalign.core.domain.task_specs import TaskSpec
from vfmalign.core.domain.tasks import check_task, get_task_spec
from vfmalign.core.storage.datasets import load_dataset
from vfmalign.core.storage.model_cards import load_card
from vfmalign.core.storage.store.object_store import ObjectStore
from vfmalign.core.storage.trainings import check_data, fit_model, select_training_cases
from vfmalign.finetuning.checks.plans import check_metric, check_plan
from vfmalign.finetuning.checks.trainings import count_trainings
from vfmalign.finetuning.jobs.repository import JobRepository
from vfmalign.finetuning.jobs.request import NETWORKS


def check_spec(spec: CheckSpec) -> None:
    """Rejects a check that can never succeed. Runs before anything is stored.

    Raises:
        BadOption: an unknown task or preset, a layer named twice, a seed out of range, or a plan that differs.
    """
    check_task(spec.task)
    check_plan(spec)
    for network in NETWORKS:
        get_recipe(spec, network)
    random_seeds = get_random_seeds(spec)
    if random_seeds < spec.seeds:
        raise BadOption(
            f"random_seeds is {random_seeds}, but random weights need at least {spec.seeds} trainings, one per seed",
            field="random_seeds",
            remedy=f"choose at least {spec.seeds}, or leave it out",
        )
    if spec.seed + random_seeds - 1 >= 2**63:
        raise BadOption(
            f"{random_seeds} seeds from {spec.seed} exceed 2^63 − 1", field="seed", remedy="choose a smaller first seed"
        )
    if len(set(spec.layers)) != len(spec.layers):
        raise BadOption("a layer is named twice", field="layers", remedy="name each layer once")


@dataclass(frozen=True)
class ResolvedCheck:
    """A check that was validated against its dataset and its model.

    Attributes:
        task: the check's task on the dataset.
        layers: layers to compare, with the primary layer first.
        recipes: of the three trainings.
    """

    task: TaskSpec
    layers: tuple[str, ...]
    recipes: dict[Network, TrainingRecipe]


def resolve_check(spec: CheckSpec, dataset: DatasetManifest, card: ModelCard) -> ResolvedCheck:
    """Fills in the defaults of a check, and validates its trainings against the dataset and the model.

    Raises:
        BadOption: the dataset does not declare what the task requires, `train` cannot be reduced to the number of
            training cases, the model's input lacks a channel, the model lacks a layer, or a patch is too large.
        BadDataset: a split has no case, or a case lacks data that the task needs.
    """
    task = get_task_spec(spec.task, dataset.declaration)
    check_data(dataset, task)
    for number in range(get_random_seeds(spec)):
        select_training_cases(dataset, task, spec.train_cases, spec.seed + number)
    return fit_check(spec, task, dataset, card)


def fit_check(spec: CheckSpec, task: TaskSpec, dataset: DatasetManifest, card: ModelCard) -> ResolvedCheck:
    """Fills in the defaults of a check. The caller must have checked the cases of the check's dataset (`check_data`).

    Raises:
        BadOption: the model's input lacks a channel, the model lacks a layer, a patch is too large, or a plan names
            another metric. Also raised by `check_card`.
    """
    check_metric(spec, task)
    check_card(spec, card)
    recipes = {network: get_recipe(spec, network, card.preprocessing) for network in NETWORKS}
    fit_model(
        dataset,
        task,
        card.id,
        card.preprocessing,
        modality_map=spec.modality_map,
        recipes=tuple(recipes.values()),  # a second recipe has the same patches
    )
    return ResolvedCheck(task, choose_layers(card, spec.layers), recipes)


def check_card(spec: CheckSpec, card: ModelCard) -> None:
    """Rejects a model that cannot be fine-tuned or that does not have the required licence.

    Raises:
        BadOption: the model is an exported program, or its licence is missing or differs.
    """
    if card.architecture == EXPORTED_PROGRAM:
        raise BadOption(
            f"{card.id} is an exported program, which cannot be initialised or trained",
            field="model_id",
            remedy="compare its features without training, or import the model as a MONAI bundle or with --as",
        )
    if spec.require_licence and not (card.licence and fnmatchcase(card.licence, spec.require_licence)):
        raise BadOption(
            f"{card.id} has {f'the licence {card.licence}' if card.licence else 'no licence'}, but "
            f"{spec.require_licence!r} is required",
            field="require_licence",
            remedy="choose a model with this licence, or import the model with --licence",
        )


def check_inputs(store: ObjectStore, jobs: JobRepository, check_id: str, spec: CheckSpec) -> tuple[TrainingPlan, ...]:
    """Validates a requested check with its dataset and its model, before anything is stored.

    If the store is unavailable, the stage `validate` repeats the validation once the store is available.

    Returns:
        The trainings that the check needs, and the trainings that it would need with one seed. If the store is
        unavailable, no trainings are returned.

    Raises:
        NotFound: the model or the dataset does not exist.
        DigestMismatch: the model or the dataset has a different digest than requested.
        InvalidInput: as `resolve_check`.
    """
    with suppress(Unavailable):
        dataset = load_dataset(store, spec.dataset_id, spec.dataset_digest or None)
        card = load_card(store, spec.model_id, spec.model_sha256)
        recipes = resolve_check(spec, dataset, card).recipes
        one_seed = spec.model_copy(update={"seeds": 1, "random_seeds": 0})
        return tuple(
            count_trainings(jobs, check_id, planned, card, dataset_digest=dataset.digest(), recipes=recipes)
            for planned in (spec, one_seed)
        )
    return ()


def choose_layers(card: ModelCard, requested: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the layers to compare, with the primary layer first. Returns all layers if none is requested.

    Raises:
        BadOption: the model does not have a requested layer.
    """
    known = [layer.name for layer in card.layers]
    for layer in requested:
        if layer not in known:
            raise BadOption(f"no layer {layer[:64]!r}", field="layers", remedy=f"choose from {', '.join(known)}")
    chosen = requested or tuple(known)
    # The card declares the primary layer before any result is known, so it is always compared.
    return (card.primary_layer, *(layer for layer in chosen if layer != card.primary_layer))
