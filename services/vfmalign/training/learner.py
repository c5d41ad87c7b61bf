"""What the training loop asks of anything that can be trained: a loss, a validation score and test scores.

Knows batches and cases; knows nothing of the loop, of storage or of jobs. Axes: N batch, C channels, D H W.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from vfmalign.core.domain.artifacts import MetricSpec
from vfmalign.core.domain.errors import BadDataset
from vfmalign.core.domain.scores import level
from vfmalign.models.encoder import Encoder
from vfmalign.training.data import Batch, PreparedCase, collate
from vfmalign.training.figures import Panel
from vfmalign.training.processes import Forward
from vfmalign.training.tasks.task import Task

EVALUATION_BATCH = 2


class Learner(Protocol):
    """One thing to train."""

    @property
    def network(self) -> nn.Module:
        """Every parameter that is trained, the encoder's among them."""

    @property
    def encoder(self) -> Encoder | None:
        """The part to publish; None where the network has none."""

    @property
    def metrics(self) -> tuple[MetricSpec, ...]:
        """The first one selects the checkpoint."""

    def loss(self, batch: Batch, draw: torch.Generator, forward: Forward) -> Tensor:
        """The loss of one step.

        Args:
            batch: of the step.
            draw: all chance comes from here.
            forward: the network, alone or spread over processes.
        """

    def validate(self, cases: Sequence[PreparedCase], check: Callable[[], None]) -> float:
        """The selecting metric on the validation cases; `check` is called between cases and raises to stop."""

    def score(self, cases: Sequence[PreparedCase], check: Callable[[], None]) -> list[dict[str, float | None]]:
        """Every metric of every test case, in order."""

    def panels(self, case: PreparedCase) -> list[Panel]:
        """Pictures of one case, empty where the objective has none."""


@dataclass
class FineTuning:
    """A network on a supervised task.

    Attributes:
        task: loss and metrics.
        network: from input to the task's output.
        encoder: the VFM in it, or None.
        device: where the network lies.
    """

    task: Task
    network: nn.Module
    encoder: Encoder | None
    device: torch.device

    @property
    def metrics(self) -> tuple[MetricSpec, ...]:
        """The task's metrics."""
        return self.task.spec.metrics

    def loss(self, batch: Batch, draw: torch.Generator, forward: Forward) -> Tensor:
        """The task's loss."""
        return self.task.loss(forward(batch.input_NCDHW), batch)

    def validate(self, cases: Sequence[PreparedCase], check: Callable[[], None]) -> float:
        """The primary metric of the cases that have a value."""
        outputs = zip(predictions(self.network, cases, self.device, check), cases, strict=True)
        values = [self.task.primary(output, case) for output, case in outputs]
        metric = self.metrics[0]
        found = level(metric, values, [case.positive for case in cases])
        if found is None:
            needs = metric.empty_mask or "it needs cases of both classes"
            raise BadDataset(
                f"the validation cases have no value of {metric.name}",
                subject="val",
                remedy=f"put cases into `val` for which the metric is defined ({needs})",
            )
        return found

    def score(self, cases: Sequence[PreparedCase], check: Callable[[], None]) -> list[dict[str, float | None]]:
        """Every metric of every case."""
        outputs = zip(predictions(self.network, cases, self.device, check), cases, strict=True)
        return [self.task.score(output, case) for output, case in outputs]

    def panels(self, case: PreparedCase) -> list[Panel]:
        """Input, reference and prediction."""
        (output_CDHW,) = predictions(self.network, [case], self.device, lambda: None)
        return self.task.panels(output_CDHW, case)


def predictions(
    network: nn.Module, cases: Sequence[PreparedCase], device: torch.device, check: Callable[[], None]
) -> Iterator[Tensor]:
    """Outputs without axis N, one for every case, in order, on the CPU; `check` is called between batches."""
    network.eval()
    for batch, some in evaluation_batches(cases, device, check):
        with torch.no_grad():
            output_N = network(batch.input_NCDHW).cpu()
        yield from output_N[: some.stop - some.start]


def evaluation_batches(
    cases: Sequence[PreparedCase], device: torch.device, check: Callable[[], None]
) -> Iterator[tuple[Batch, slice]]:
    """Batches of all cases in order, each with the cases that it holds; `check` is called before each."""
    for start in range(0, len(cases), EVALUATION_BATCH):
        check()
        some = list(cases[start : start + EVALUATION_BATCH])
        # On a CPU torch runs a batch of one through a kernel ten times slower than oneDNN's: a lone case goes twice.
        batch = collate(some * 2 if len(some) == 1 and device.type == "cpu" else some, device)
        yield batch, slice(start, start + len(some))
