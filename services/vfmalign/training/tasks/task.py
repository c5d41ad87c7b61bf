"""What makes a task: the head's shape, the loss and the metrics. Axes: N batch, C channels, D H W."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from vfmalign.core.tasks import TaskSpec
from vfmalign.training.data import Batch, PreparedCase
from vfmalign.training.figures import Panel


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        spec: name, input transform, labels and metrics.
        out_channels: of the head; None for as many as the input has.
        residual: whether the head's output is added to the input.
        loss: of an output (N, C, D, H, W) and its batch.
        primary: the primary metric of an output (C, D, H, W) and its case; None where undefined.
        score: every metric of an output and its case, by name.
        panels: pictures of an output and its case.
    """

    spec: TaskSpec
    out_channels: int | None
    residual: bool
    loss: Callable[[Tensor, Batch], Tensor]
    primary: Callable[[Tensor, PreparedCase], float | None]
    score: Callable[[Tensor, PreparedCase], dict[str, float | None]]
    panels: Callable[[Tensor, PreparedCase], list[Panel]]
