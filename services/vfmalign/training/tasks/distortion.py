"""Distortion correction: from a volume displaced and piled up by susceptibility back to the undistorted one.

For prostate mpMRI, the model's input is T2W, DWI and ADC. T2W is not distorted; one field distorts DWI and ADC. The
model restores DWI alone. The network predicts a residual over the distorted volume, so that step 0 of every curve is
the score of the uncorrected input.
"""

from __future__ import annotations

from vfmalign.core.domain.tasks import TaskSpec
from vfmalign.training.tasks.restoration import make_restoration
from vfmalign.training.tasks.task import TrainableTask


def make_distortion(spec: TaskSpec) -> TrainableTask:
    """Returns the task for the modalities of its parameters."""
    return make_restoration(spec)
