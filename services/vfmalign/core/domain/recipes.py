"""Default training recipes for each network, task and preset.

All networks of a task use the same epochs, steps and batch size. Baselines therefore have the data and budget of the
foundation model. Learning rate, layer decay and weight decay differ by network. Networks with random weights have no
layer decay, because their early stages have learned nothing worth preserving.

Sources: AdamW, layer decay, warm-up and half-cosine schedule follow the fine-tuning of ConvNeXt V2 (Woo et al., CVPR
2023) and ProFound. The rates were tuned on seeded phantoms (`demo`).
"""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict, TypeVar

from vfmalign.core.domain.errors import BadOption
from vfmalign.core.domain.jobs import Network, TrainingRecipe
from vfmalign.core.domain.models import Objective, Preprocessing

Preset = Literal["demo", "default"]
_K = TypeVar("_K", bound=str)
_V = TypeVar("_V")
PRESETS: tuple[Preset, ...] = ("demo", "default")
Family = Literal["convolutional", "transformer"]
_TRANSFORMERS = ("profound_vit_", "provicnet_", "dinov2_")


class _Budget(TypedDict):
    """Fields that all networks of a task share."""

    epochs: int
    steps_per_epoch: int
    batch_size: int
    patch_shape_dhw: NotRequired[tuple[int, int, int]]


def _finetuning(
    budget: _Budget, rates: dict[Network, float], *, encoder_rate: float = 1.0
) -> dict[Network, TrainingRecipe]:
    """Recipes of one task: one budget, a learning rate per network, and layer decay for pretrained weights."""
    return {
        network: TrainingRecipe(
            **budget,
            learning_rate=rate,
            layer_decay=0.8 if network == "pretrained" else 1.0,
            encoder_rate=encoder_rate if network == "pretrained" else 1.0,
        )
        for network, rate in rates.items()
    }


# `demo`: about twenty 16×64×64 cases on two cores in 15 seconds. A patch has a quarter of the volume and takes a
# quarter of the time; half of the patches are centred on a lesion.
_DEMO: _Budget = {"epochs": 8, "steps_per_epoch": 16, "batch_size": 4, "patch_shape_dhw": (16, 32, 32)}
# The encoder learns at a hundredth of the head's rate. At higher rates MMD² saturates within a few steps, while Dice
# and PSNR stay the same (docs/adr/0020-*.md).
# Classification needs the whole volume, so there are no patches; without a decoder a step is cheap enough.
_DEMO_CASES: _Budget = {"epochs": 8, "steps_per_epoch": 16, "batch_size": 4}
# `default`: some hundred cases of any size on one GPU in hours.
_DEFAULT: _Budget = {"epochs": 100, "steps_per_epoch": 100, "batch_size": 2}

FINETUNING_RECIPES: dict[str, dict[Preset, dict[Network, TrainingRecipe]]] = {
    "segmentation": {
        "demo": _finetuning(_DEMO, {"pretrained": 8e-3, "scratch": 5e-3, "specialised": 5e-3}, encoder_rate=0.01),
        "default": _finetuning(_DEFAULT, {"pretrained": 5e-4, "scratch": 1e-3, "specialised": 1e-3}),
    },
    "super_resolution": {
        "demo": _finetuning(_DEMO, {"pretrained": 6e-3, "scratch": 5e-3, "specialised": 5e-3}, encoder_rate=0.01),
        "default": _finetuning(_DEFAULT, {"pretrained": 5e-4, "scratch": 1e-3, "specialised": 1e-3}),
    },
    "denoising": {
        "demo": _finetuning(_DEMO, {"pretrained": 6e-3, "scratch": 5e-3, "specialised": 5e-3}, encoder_rate=0.01),
        "default": _finetuning(_DEFAULT, {"pretrained": 5e-4, "scratch": 1e-3, "specialised": 1e-3}),
    },
    "distortion": {
        "demo": _finetuning(_DEMO, {"pretrained": 6e-3, "scratch": 5e-3, "specialised": 5e-3}, encoder_rate=0.01),
        "default": _finetuning(_DEFAULT, {"pretrained": 5e-4, "scratch": 1e-3, "specialised": 1e-3}),
    },
    "translation": {
        "demo": _finetuning(_DEMO, {"pretrained": 6e-3, "scratch": 5e-3, "specialised": 5e-3}, encoder_rate=0.01),
        "default": _finetuning(_DEFAULT, {"pretrained": 5e-4, "scratch": 1e-3, "specialised": 1e-3}),
    },
    "classification": {
        "demo": _finetuning(_DEMO_CASES, {"pretrained": 3e-3, "scratch": 3e-3, "specialised": 3e-3}, encoder_rate=0.1),
        "default": _finetuning(_DEFAULT, {"pretrained": 2e-4, "scratch": 5e-4, "specialised": 5e-4}),
    },
    "regression": {
        "demo": _finetuning(_DEMO_CASES, {"pretrained": 3e-3, "scratch": 3e-3, "specialised": 3e-3}, encoder_rate=0.1),
        "default": _finetuning(_DEFAULT, {"pretrained": 2e-4, "scratch": 5e-4, "specialised": 5e-4}),
    },
}

# By family: a masked autoencoder encodes a quarter of the patches, so its steps are cheap and there are more of them. A
# transformer over slices costs eight times as much as a small ConvNeXt and takes half as many contrastive steps.
PRETRAINING_RECIPES: dict[Objective, dict[Family, dict[Preset, TrainingRecipe]]] = {
    "masked_reconstruction": {
        "convolutional": {
            "demo": TrainingRecipe(epochs=8, steps_per_epoch=12, batch_size=4, learning_rate=4e-3),
            "default": TrainingRecipe(epochs=400, steps_per_epoch=100, batch_size=4, learning_rate=6e-4),
        },
        "transformer": {
            "demo": TrainingRecipe(epochs=8, steps_per_epoch=24, batch_size=8, learning_rate=2e-3),
            "default": TrainingRecipe(epochs=400, steps_per_epoch=100, batch_size=16, learning_rate=6e-4),
        },
    },
    "contrastive": {
        "convolutional": {
            "demo": TrainingRecipe(epochs=8, steps_per_epoch=20, batch_size=8, learning_rate=1e-3),
            "default": TrainingRecipe(epochs=400, steps_per_epoch=100, batch_size=16, learning_rate=6e-4),
        },
        "transformer": {
            "demo": TrainingRecipe(epochs=8, steps_per_epoch=10, batch_size=8, learning_rate=5e-4),
            "default": TrainingRecipe(epochs=400, steps_per_epoch=100, batch_size=16, learning_rate=3e-4),
        },
    },
}


def get_family(architecture: str) -> Family:
    """Returns the family of an architecture. All members of a family have the same recipes.

    Unknown architectures count as convolutional.
    """
    return "transformer" if architecture.startswith(_TRANSFORMERS) else "convolutional"


def get_finetuning_recipe(network: Network, task: str, preset: Preset = "default") -> TrainingRecipe:
    """Returns the recipe of a fine-tuning job.

    Raises:
        BadOption: no recipe has this task, preset or network.
    """
    presets = _choose(FINETUNING_RECIPES, task, "task")
    return _choose(_choose(presets, preset, "preset"), network, "network")


def get_pretraining_recipe(objective: Objective, architecture: str, preset: Preset = "default") -> TrainingRecipe:
    """Returns the recipe of a pretraining job.

    Raises:
        BadOption: no recipe has this objective or preset.
    """
    families = _choose(PRETRAINING_RECIPES, objective, "objective")
    return _choose(families[get_family(architecture)], preset, "preset")


def fit_patch(recipe: TrainingRecipe, model_input: Preprocessing | None) -> TrainingRecipe:
    """Limits the patches of a preset to the size of a model's input. A model that reads patches determines their size.

    Args:
        recipe: a preset, before a request changes its fields. If a request sets a patch that is too large, this is an
            error.
        model_input: the model's input; None if it is not known yet.
    """
    if model_input is not None and model_input.patch_shape_dhw is not None:
        return recipe.model_copy(update={"patch_shape_dhw": model_input.patch_shape_dhw})
    if recipe.patch_shape_dhw is None or model_input is None:
        return recipe
    depth, height, width = map(min, recipe.patch_shape_dhw, model_input.shape_dhw)
    return recipe.model_copy(update={"patch_shape_dhw": (depth, height, width)})


def check_patch(recipe: TrainingRecipe, model_input: Preprocessing) -> None:
    """Checks that patches lie within a model's input, or are those that the model reads.

    Raises:
        BadOption: a patch is larger than the input, or differs from the model's patches.
    """
    patch, input_shape_DHW = recipe.patch_shape_dhw, model_input.shape_dhw
    if model_input.patch_shape_dhw not in (None, patch):
        raise BadOption(
            f"the model reads patches of {model_input.patch_shape_dhw} voxels, not of {patch}",
            field="recipe.patch_shape_dhw",
            remedy="leave it out in a fine-tuning; a pretraining needs an architecture that reads whole inputs",
        )
    if patch is not None and not all(0 < size <= whole for size, whole in zip(patch, input_shape_DHW, strict=True)):
        raise BadOption(
            f"a patch of {patch} voxels does not fit the model's input",
            field="recipe.patch_shape_dhw",
            remedy=f"use at most the input's size of {input_shape_DHW} voxels",
        )


def _choose(table: dict[_K, _V], name: _K, field: str) -> _V:
    if name not in table:
        raise BadOption(f"no recipe exists for {name[:64]!r}", field=field, remedy=f"choose one of {', '.join(table)}")
    return table[name]
