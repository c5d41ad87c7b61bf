"""One sound training recipe for each network, task and budget: the starting point of every job spec.

Knows numbers alone; free of torch, so that an orchestrator can compose job specs.

All networks of one task share epochs, steps and batch size, so that a baseline has the same data and budget as the
foundation model; rate, layer decay and weight decay are each network's own. Random weights get no layer decay: there is
nothing in the early stages to protect.

Sources: AdamW, layer decay, warm-up and half cosine as in ConvNeXt V2's fine-tuning (Woo et al., CVPR 2023) and
ProFound; rates tuned on seeded phantoms (`demo`).
"""

from __future__ import annotations

from typing import Literal, TypeVar

from vfmalign.core.artifacts import Network, Objective, Recipe
from vfmalign.core.errors import BadOption

Preset = Literal["demo", "default"]
_K = TypeVar("_K", bound=str)
_V = TypeVar("_V")
PRESETS: tuple[Preset, ...] = ("demo", "default")


def _finetuning(epochs: int, steps: int, batch: int, rates: dict[Network, float]) -> dict[Network, Recipe]:
    return {
        network: Recipe(
            epochs=epochs,
            steps_per_epoch=steps,
            batch_size=batch,
            learning_rate=rate,
            weight_decay=0.05,
            layer_decay=0.8 if network == "pretrained" else 1.0,
        )
        for network, rate in rates.items()
    }


# `demo`: a two-core machine, some twenty 16×64×64 cases, half a minute. `default`: one GPU, some hundred cases, hours.
FINETUNING_RECIPES: dict[str, dict[Preset, dict[Network, Recipe]]] = {
    "segmentation": {
        "demo": _finetuning(10, 12, 2, {"pretrained": 3e-3, "scratch": 3e-3, "specialised": 3e-3}),
        "default": _finetuning(100, 100, 2, {"pretrained": 5e-4, "scratch": 1e-3, "specialised": 1e-3}),
    },
    "super_resolution": {
        "demo": _finetuning(10, 12, 2, {"pretrained": 3e-3, "scratch": 3e-3, "specialised": 3e-3}),
        "default": _finetuning(100, 100, 2, {"pretrained": 5e-4, "scratch": 1e-3, "specialised": 1e-3}),
    },
}

PRETRAINING_RECIPES: dict[Objective, dict[Preset, Recipe]] = {
    "masked_reconstruction": {
        "demo": Recipe(epochs=10, steps_per_epoch=12, batch_size=4, learning_rate=3e-3),
        "default": Recipe(epochs=400, steps_per_epoch=100, batch_size=4, learning_rate=6e-4),
    },
    "contrastive": {
        "demo": Recipe(epochs=10, steps_per_epoch=12, batch_size=12, learning_rate=2e-3),
        "default": Recipe(epochs=400, steps_per_epoch=100, batch_size=16, learning_rate=6e-4),
    },
}


def recipe_for(network: Network, task: str, preset: Preset = "default") -> Recipe:
    """The recipe of a fine-tuning job.

    Raises:
        BadOption: no recipe has this task, preset or network.
    """
    presets = _choose(FINETUNING_RECIPES, task, "task")
    return _choose(_choose(presets, preset, "preset"), network, "network")


def pretraining_recipe_for(objective: Objective, preset: Preset = "default") -> Recipe:
    """The recipe of a pretraining job.

    Raises:
        BadOption: no recipe has this objective or preset.
    """
    return _choose(_choose(PRETRAINING_RECIPES, objective, "objective"), preset, "preset")


def _choose(table: dict[_K, _V], name: _K, field: str) -> _V:
    if name not in table:
        raise BadOption(
            f"there is no recipe for {name[:64]!r}", field=field, remedy=f"choose one of {', '.join(table)}"
        )
    return table[name]
