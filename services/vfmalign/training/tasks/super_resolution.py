"""Super-resolution: predicts the original volume from a volume with half its in-plane resolution.

The network predicts a residual that is added to its input. The untrained network therefore returns the input. The first
point of every curve is the input's own score.
"""

from __future__ import annotations

from vfmalign.core.domain.task_specs import TaskSpec
from vfmalign.training.tasks.restoration import make_restoration
from vfmalign.training.tasks.task import TrainableTask


def make_super_resolution(spec: TaskSpec) -> TrainableTask:
    """Returns the task for the modalities in its parameters."""
    return make_restoration(spec)
