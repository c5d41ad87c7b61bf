"""The objectives that an encoder can be pretrained by, by name: one file and one entry each."""

from __future__ import annotations

from collections.abc import Callable

import torch

from vfmalign.core.domain.artifacts import Objective, TrainingRecipe
from vfmalign.core.domain.errors import BadOption
from vfmalign.models.encoder import Encoder
from vfmalign.training.learner import Learner
from vfmalign.training.pretraining.contrastive import Contrastive
from vfmalign.training.pretraining.masked import MaskedReconstruction

Build = Callable[[Encoder, TrainingRecipe, torch.device, int], Learner]
OBJECTIVES: dict[Objective, Build] = {"masked_reconstruction": MaskedReconstruction, "contrastive": Contrastive}


def build_objective(
    name: Objective, encoder: Encoder, recipe: TrainingRecipe, device: torch.device, seed: int
) -> Learner:
    """Puts an encoder under an objective.

    Args:
        name: the objective.
        encoder: to pretrain; already on the device.
        recipe: the job's.
        device: where the encoder lies.
        seed: of the fixed masks and views that validation uses.

    Raises:
        BadOption: no pretraining objective has this name, or the recipe does not suit it.
    """
    if name not in OBJECTIVES:
        raise BadOption(f"{name} is no pretraining", field="objective", remedy=f"choose one of {', '.join(OBJECTIVES)}")
    return OBJECTIVES[name](encoder, recipe, device, seed)
