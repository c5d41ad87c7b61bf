"""What makes a task: the head's shape, the loss and the metrics. Axes: N batch, C channels, D H W."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from vfmalign.core.domain.artifacts import Modality
from vfmalign.core.domain.tasks import TaskSpec
from vfmalign.training.data import Batch, PreparedCase
from vfmalign.training.figures import Panel


@dataclass(frozen=True)
class Task:
    """One task. An output is (C, D, H, W), or one logit where cases are classified.

    Attributes:
        spec: name, input transform, labels, metrics and what the naive baseline is.
        loss: of outputs and their batch.
        primary: the primary metric of an output and its case; None where undefined.
        score: every metric of an output and its case, by name.
        panels: pictures of an output and its case.
        naive_baseline: learns from the training cases what can be predicted without a network; returns the predictor.
        classes: channels of a head that tells classes of voxels apart; 0 for other tasks.
        restores: modalities that the head puts out; those of them that the model's input has.
        residual: whether what it puts out is added to those channels of the input.
        positives: the class of every case of a dataset; None for a task without classes of cases.
    """

    spec: TaskSpec
    loss: Callable[[Tensor, Batch], Tensor]
    primary: Callable[[Tensor, PreparedCase], float | None]
    score: Callable[[Tensor, PreparedCase], dict[str, float | None]]
    panels: Callable[[Tensor, PreparedCase], list[Panel]]
    naive_baseline: Callable[[Sequence[PreparedCase]], Callable[[PreparedCase], Tensor]]
    classes: int = 0
    restores: tuple[Modality, ...] = ()
    residual: bool = False
    positives: Callable[[Sequence[PreparedCase]], list[bool]] | None = None
