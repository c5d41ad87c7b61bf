"""Denoising: predicts the volume as acquired from the same volume with simulated Rician noise.

The network predicts a residual that is added to its input. The first point of every curve is therefore the score of the
noisy input. The reference contains the noise of its own acquisition. No network can predict this noise.
"""

from __future__ import annotations

from vfmalign.core.domain.task_specs import TaskSpec
from vfmalign.training.tasks.restoration import make_restoration
from vfmalign.training.tasks.task import TrainableTask


def make_denoising(spec: TaskSpec) -> TrainableTask:
    """Returns the task for the modalities in its parameters."""
    return make_restoration(spec)
