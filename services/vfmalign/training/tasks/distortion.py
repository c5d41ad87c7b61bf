"""Distortion correction: restores a volume whose signal was displaced and piled up by susceptibility.

For prostate mpMRI, the model's input is T2W, DWI and ADC. T2W is not distorted. DWI and ADC are distorted by the same
field. The model restores DWI alone. The network predicts a residual that is added to the distorted volume. The first
point of every curve is therefore the score of the uncorrected input.
"""

from __future__ import annotations

from vfmalign.core.domain.task_specs import TaskSpec
from vfmalign.training.tasks.restoration import make_restoration
from vfmalign.training.tasks.task import TrainableTask


def make_distortion(spec: TaskSpec) -> TrainableTask:
    """Returns the task for the modalities in its parameters."""
    return make_restoration(spec)
