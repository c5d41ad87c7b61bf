"""Denoising: from a volume with simulated Rician noise back to the volume as it was acquired.

The network predicts a residual over its input, so that step 0 of every curve is the score of the noisy input. The
reference contains the noise of its own acquisition, which no network can predict.
"""

from __future__ import annotations

from vfmalign.core.domain.tasks import TaskSpec
from vfmalign.training.tasks.restoration import make_restoration
from vfmalign.training.tasks.task import TrainableTask


def make_denoising(spec: TaskSpec) -> TrainableTask:
    """Returns the task for the modalities of its parameters."""
    return make_restoration(spec)
