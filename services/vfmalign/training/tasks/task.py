"""Interface of a task for training: the shape of the head, the loss and the metrics.

Axes: N batch, C channels, D H W.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vfmalign.core.domain.declarations import Modality
from vfmalign.core.domain.task_specs import TaskSpec
from vfmalign.training.data import Batch, PreparedCase
from vfmalign.training.figures import Panel


def _keep_cases(cases: Sequence[PreparedCase]) -> list[PreparedCase]:
    return list(cases)


def draw_channels(
    case: PreparedCase, prediction: str, d: int | None = None, outlines: tuple[NDArray[np.bool_], ...] = ()
) -> list[Panel]:
    """Returns a panel for each channel of one slice, by default the middle one. The first panel has the prediction."""
    slice_CHW = case.input_CDHW[:, case.input_CDHW.shape[1] // 2 if d is None else d]
    aspect = case.spacing_mm[1] / case.spacing_mm[2]
    return [
        Panel(f"{name}: {prediction}" if channel == 0 else name, image_HW.numpy(), outlines=outlines, aspect=aspect)
        for channel, (name, image_HW) in enumerate(zip(case.modalities, slice_CHW, strict=True))
    ]


@dataclass(frozen=True)
class TrainableTask:
    """One task on one dataset. A network outputs (C, D, H, W) or, for tasks on whole cases, (outputs,).

    Attributes:
        spec: name, input transform, labels, metrics and description of the naive baseline.
        loss: computes the loss from outputs and their batch.
        primary: computes the primary metric from an output and its case; None if the metric is undefined.
        score: computes every metric, by name, from an output and its case.
        panels: draws images of an output and its case.
        naive_baseline: fits a prediction that needs no network to the training cases. Returns the predictor.
        prepare: completes all loaded cases of a dataset, in order, for example with their classes.
        classes: number of channels of a head that classifies voxels; 0 for other tasks.
        restores: modalities that the head predicts. Modalities that the model's input lacks are ignored.
        residual: whether the prediction is added to the input channels named in `restores`.
        outputs: number of values that the head predicts per case; 0 for tasks that predict voxels.
    """

    spec: TaskSpec
    loss: Callable[[Tensor, Batch], Tensor]
    primary: Callable[[Tensor, PreparedCase], float | None]
    score: Callable[[Tensor, PreparedCase], dict[str, float | None]]
    panels: Callable[[Tensor, PreparedCase], list[Panel]]
    naive_baseline: Callable[[Sequence[PreparedCase]], Callable[[PreparedCase], Tensor]]
    prepare: Callable[[Sequence[PreparedCase]], list[PreparedCase]] = _keep_cases
    classes: int = 0
    restores: tuple[Modality, ...] = ()
    residual: bool = False
    outputs: int = 0
