"""Tasks by name. Each entry of `core.domain.tasks` has one file and one entry in `TASKS`."""

from __future__ import annotations

from collections.abc import Callable

from vfmalign.core.domain.task_specs import TaskSpec
from vfmalign.training.tasks.classification import make_classification
from vfmalign.training.tasks.denoising import make_denoising
from vfmalign.training.tasks.distortion import make_distortion
from vfmalign.training.tasks.regression import make_regression
from vfmalign.training.tasks.segmentation import make_segmentation
from vfmalign.training.tasks.super_resolution import make_super_resolution
from vfmalign.training.tasks.task import TrainableTask
from vfmalign.training.tasks.translation import make_translation

TASKS: dict[str, Callable[[TaskSpec], TrainableTask]] = {
    "segmentation": make_segmentation,
    "super_resolution": make_super_resolution,
    "denoising": make_denoising,
    "distortion": make_distortion,
    "translation": make_translation,
    "classification": make_classification,
    "regression": make_regression,
}


def get_task(spec: TaskSpec) -> TrainableTask:
    """Returns the losses and metrics of a task on a dataset."""
    return TASKS[spec.name](spec)
