"""Recipes of a requested check. Compares the optimiser steps of the check's networks with their presets."""

from __future__ import annotations

from typing import get_args

from vfmalign.client.messages.checks import CheckSpec
from vfmalign.client.messages.jobs import Recipe
from vfmalign.core.domain.errors import BadOption
from vfmalign.core.domain.jobs import Network, TrainingRecipe
from vfmalign.core.domain.models import Preprocessing
from vfmalign.core.domain.recipes import PRESETS, Preset, fit_patch, get_finetuning_recipe
from vfmalign.core.domain.record import Record

# Fields that make two trainings comparable; all others may differ between networks.
BUDGET = ("epochs", "steps_per_epoch", "batch_size", "patch_shape_dhw")
_RATES = ("learning_rate", "weight_decay", "layer_decay", "encoder_rate", "warmup_fraction")
MIN_SHARE = 0.25
"""Minimum share of the preset's steps for a verdict (docs/adr/0083-*.md)."""


class TrainingBudget(Record):
    """Optimiser steps of one network's training, and of the preset that the check names."""

    network: Network
    steps: int
    preset_steps: int

    @property
    def share(self) -> float:
        """Number of steps divided by the preset's number of steps.

        Above 1 for longer trainings.
        """
        return self.steps / self.preset_steps

    @property
    def suffices(self) -> bool:
        """Whether the training is long enough for a verdict."""
        return self.share >= MIN_SHARE

    def __str__(self) -> str:
        return f"{self.steps:,} of the recipe's {self.preset_steps:,} steps"


def get_preset(recipe: Recipe) -> Preset:
    """Returns the preset that a recipe names; `default` if it names none.

    Raises:
        BadOption: the preset is unknown.
    """
    for preset in PRESETS:
        if preset == (recipe.preset or "default"):
            return preset
    raise BadOption("unknown preset", field="recipe.preset", remedy=f"choose one of {', '.join(PRESETS)}")


def apply_recipe(recipe: Recipe, base: TrainingRecipe) -> TrainingRecipe:
    """Returns a preset in which the values that a request sets replace the preset's values."""
    changes = recipe.model_dump(exclude={"preset"}, exclude_defaults=True)
    return TrainingRecipe.model_validate(base.model_dump() | changes)


def make_request(recipe: TrainingRecipe, preset: str) -> Recipe:
    """Converts a recipe to a request that sets every field. Later changes of the preset do not affect this request."""
    fields = recipe.model_dump(include=set(Recipe.model_fields), exclude_none=True)
    return Recipe.model_validate(fields | {"preset": preset})


def get_recipe(spec: CheckSpec, network: Network, model_input: Preprocessing | None = None) -> TrainingRecipe:
    """Returns the recipe of one of a check's three trainings.

    The network with random weights uses the recipe of the pretrained network, unless the spec sets another recipe. The
    specialised network has its own learning rates and decays. The specialised network has the budget of the pretrained
    network, unless the spec sets another budget.

    Args:
        spec: the requested check.
        network: the training.
        model_input: the model's input, which limits or determines the patches of a preset; None if unknown.

    Raises:
        BadOption: the task or preset is unknown.
    """
    preset = get_preset(spec.recipe)
    base = fit_patch(get_finetuning_recipe("pretrained", spec.task.name, preset), model_input)
    main = apply_recipe(spec.recipe, base)
    own = spec.scratch_recipe if network == "scratch" else spec.specialised_recipe
    if network == "pretrained" or (network == "scratch" and own is None):
        return main
    if own is not None and own.preset:
        preset = get_preset(own)
    base = get_finetuning_recipe(network, spec.task.name, preset).model_copy(
        update={name: getattr(main, name) for name in BUDGET}
    )
    return base if own is None else apply_recipe(own, base)


def get_second_recipe(spec: CheckSpec, model_input: Preprocessing | None = None) -> TrainingRecipe | None:
    """Returns the preset's recipe for random weights if a check also tries this recipe.

    Args:
        spec: the requested check.
        model_input: see `get_recipe`.

    Returns:
        The recipe; None if the spec sets a recipe for random weights or a rate of the common recipe, or if the preset
        has only one recipe.
    """
    if spec.scratch_recipe is not None or any(getattr(spec.recipe, name) is not None for name in _RATES):
        return None
    first = get_recipe(spec, "scratch", model_input)
    second = get_finetuning_recipe("scratch", spec.task.name, get_preset(spec.recipe)).model_copy(
        update={name: getattr(first, name) for name in BUDGET}
    )
    return None if second == first else second


def get_random_seeds(spec: CheckSpec) -> int:
    """Returns the number of trainings of the network with random weights."""
    return spec.random_seeds or spec.seeds


def get_recipe_seed(spec: CheckSpec) -> int:
    """Returns the seed of the trainings that choose between two recipes."""
    return spec.seed if spec.recipe_seed is None else spec.recipe_seed


def list_budgets(spec: CheckSpec) -> tuple[TrainingBudget, ...]:
    """Returns the steps of each network and of the pretrained network's preset. Raises the errors of `get_recipe`."""
    preset = get_finetuning_recipe("pretrained", spec.task.name, get_preset(spec.recipe))
    recipes = {network: get_recipe(spec, network) for network in get_args(Network)}
    return tuple(
        TrainingBudget(network=network, steps=recipe.steps, preset_steps=preset.steps)
        for network, recipe in recipes.items()
    )


def find_shortest_budget(spec: CheckSpec) -> TrainingBudget:
    """Returns the budget of the network with the fewest steps, which decides whether a check has a verdict."""
    return min(list_budgets(spec), key=lambda budget: budget.steps)
