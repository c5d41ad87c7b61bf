"""Pretraining objectives by name. To add an objective, write one file and add one entry to `OBJECTIVES`."""

from __future__ import annotations

from collections.abc import Callable

import torch

from vfmalign.core.domain.errors import BadOption
from vfmalign.core.domain.jobs import TrainingRecipe
from vfmalign.core.domain.models import Objective
from vfmalign.models.encoder import Encoder
from vfmalign.training.learner import Learner
from vfmalign.training.pretraining.contrastive import Contrastive
from vfmalign.training.pretraining.masked import MaskedReconstruction

ObjectiveFactory = Callable[[Encoder, TrainingRecipe, torch.device, int], Learner]
OBJECTIVES: dict[Objective, ObjectiveFactory] = {
    "masked_reconstruction": MaskedReconstruction,
    "contrastive": Contrastive,
}


def build_objective(
    name: Objective, encoder: Encoder, recipe: TrainingRecipe, device: torch.device, seed: int
) -> Learner:
    """Builds the learner for an objective.

    Args:
        name: the objective.
        encoder: the encoder to pretrain. The encoder is already on the device.
        recipe: the job's recipe.
        device: device of the encoder.
        seed: seed of the masks and views for validation, which are the same in every epoch.

    Raises:
        BadOption: no pretraining objective has this name, or the recipe does not suit the objective.
    """
    if name not in OBJECTIVES:
        raise BadOption(
            f"{name} is not a pretraining objective", field="objective", remedy=f"choose one of {', '.join(OBJECTIVES)}"
        )
    return OBJECTIVES[name](encoder, recipe, device, seed)
