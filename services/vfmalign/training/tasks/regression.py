"""Regression: predicts a number of a case. The network outputs the number standardised by the training cases.

Axes: N batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median

import torch
from torch import Tensor
from torch.nn import functional

from vfmalign.core.domain.declarations import CaseNumber
from vfmalign.core.domain.task_specs import TaskSpec
from vfmalign.training.data import Batch, PreparedCase
from vfmalign.training.figures import Panel
from vfmalign.training.tasks.task import TrainableTask, draw_channels


@dataclass(frozen=True)
class Regression:
    """Loss, metrics and panels for one number.

    Attributes:
        number: the number.
        mean, sd: mean and standard deviation that standardise the number.
    """

    number: CaseNumber
    mean: float
    sd: float

    def prepare(self, cases: Sequence[PreparedCase]) -> list[PreparedCase]:
        """Adds the number to each case."""
        return [replace(case, truth=case.numbers[self.number.name]) for case in cases]

    def loss(self, output_N1: Tensor, batch: Batch) -> Tensor:
        """Mean squared error of the standardised number."""
        if batch.truth_N is None:
            raise TypeError("a regression needs the number of every case")
        standardised_N = (batch.truth_N - self.mean) / self.sd
        return functional.mse_loss(output_N1[:, 0], standardised_N.to(output_N1.dtype))

    def predict(self, output_1: Tensor) -> float:
        """Returns the predicted number."""
        return self.mean + self.sd * float(output_1)

    def absolute_error(self, output_1: Tensor, case: PreparedCase) -> float | None:
        """Returns the absolute error in the unit of the number."""
        if case.truth is None:
            raise TypeError("a regression needs the number of every case")
        return abs(self.predict(output_1) - case.truth)

    def score(self, output_1: Tensor, case: PreparedCase) -> dict[str, float | None]:
        """Absolute error, and the predicted number for the metrics over sets of cases."""
        predicted = self.predict(output_1)
        return {"mae": self.absolute_error(output_1, case), "r2": predicted, "pearson": predicted}

    def median_number(self, train: Sequence[PreparedCase]) -> Callable[[PreparedCase], Tensor]:
        """Fits the naive baseline, which predicts the median of the training cases for every case.

        Of all constants, the median has the smallest mean absolute error. Another constant can beat the mean.
        """
        middle = median(case.truth for case in train if case.truth is not None)
        output_1 = torch.tensor([(middle - self.mean) / self.sd], dtype=torch.float64)
        return lambda case: output_1

    def panels(self, output_1: Tensor, case: PreparedCase) -> list[Panel]:
        """Every channel of the middle slice, with the number and the prediction."""
        name, unit = self.number.name, f" {self.number.unit}" if self.number.unit else ""
        return draw_channels(case, f"{name} {case.truth:.3g}, predicted {self.predict(output_1):.3g}{unit}")


def make_regression(spec: TaskSpec) -> TrainableTask:
    """Returns the task for the number in its parameters. The spec must be fitted to the training cases."""
    if spec.number is None or spec.scale is None:
        raise TypeError("a regression has a number and its scale")
    task = Regression(spec.number, *spec.scale)
    return TrainableTask(
        spec=spec,
        loss=task.loss,
        primary=task.absolute_error,
        score=task.score,
        panels=task.panels,
        naive_baseline=task.median_number,
        prepare=task.prepare,
        outputs=1,
    )
