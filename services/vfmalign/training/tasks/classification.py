"""Classification of cases: predicts whether a case belongs to a class. One logit per case.

A case states its class, or the class is derived from a label map. If the class is derived, a case belongs to it if the
highest value of the label map reaches a threshold. For prostate mpMRI, the values of the lesion map are ISUP grade
groups. Cancer is significant from group 2. If no value in the maps of a dataset exceeds 1, the maps are masks and do
not contain grades. Any nonzero voxel then counts.

Axes: N batch, D H W.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from vfmalign.core.domain.declarations import CaseClass
from vfmalign.core.domain.errors import BadDataset
from vfmalign.core.domain.task_specs import TaskSpec
from vfmalign.training.data import Batch, PreparedCase
from vfmalign.training.figures import Panel
from vfmalign.training.tasks.grades import make_grading
from vfmalign.training.tasks.task import TrainableTask, draw_channels


def get_positives(cases: Sequence[PreparedCase], case_class: CaseClass) -> list[bool]:
    """Returns, for each case of a dataset, whether it belongs to the class."""
    if not case_class.label:
        return [case.classes[case_class.name] for case in cases]
    grades = [case.label_max.get(case_class.label, 0) for case in cases]
    threshold = case_class.at_least if max(grades) > 1 else 1
    return [grade >= threshold for grade in grades]


@dataclass(frozen=True)
class Classification:
    """Loss, metrics and panels for one class.

    Attributes:
        spec: the task.
        case_class: the class.
    """

    spec: TaskSpec
    case_class: CaseClass

    def prepare(self, cases: Sequence[PreparedCase]) -> list[PreparedCase]:
        """Adds the class to each case.

        This requires the cases of all splits, because the class depends on the highest grade in the dataset.
        """
        positives = get_positives(cases, self.case_class)
        return [replace(case, positive=positive) for case, positive in zip(cases, positives, strict=True)]

    def loss(self, output_N1: Tensor, batch: Batch) -> Tensor:
        """Binary cross-entropy. Positive and negative cases are equally frequent in batches."""
        if batch.positive_N is None:
            raise TypeError("classification needs the class of every case")
        return functional.binary_cross_entropy_with_logits(output_N1[:, 0], batch.positive_N.to(output_N1.dtype))

    def probability(self, output_1: Tensor, case: PreparedCase) -> float | None:
        """Returns the predicted probability that the case is positive.

        Metrics over sets of cases use this probability.
        """
        return float(output_1.sigmoid())

    def score(self, output_1: Tensor, case: PreparedCase) -> dict[str, float | None]:
        """For each metric over sets of cases, returns the predicted probability under the name of the metric."""
        return {metric.name: self.probability(output_1, case) for metric in self.spec.metrics}

    def positive_share(self, train: Sequence[PreparedCase]) -> Callable[[PreparedCase], Tensor]:
        """Fits the naive baseline.

        The baseline predicts the same value for every case: the share of positive training cases, as a logit.

        Raises:
            BadDataset: all training cases have the same class. The network could then learn nothing about the other
                class.
        """
        share = fmean(bool(case.positive) for case in train)
        if share in (0.0, 1.0):
            raise BadDataset(
                f"every training case is {'positive' if share else 'negative'}",
                subject="train",
                remedy=f"use cases that are {self.case_class.name} and cases that are not",
            )
        return lambda case: torch.tensor([share]).logit()

    def panels(self, output_1: Tensor, case: PreparedCase) -> list[Panel]:
        """Every channel of one slice, with the class and the prediction.

        The chosen slice has the most voxels of the label map that defines the class. Without such a map, the middle
        slice is drawn.
        """
        d: int | None = None
        outlines: tuple[NDArray[np.bool_], ...] = ()
        label_DHW = case.labels.get(self.case_class.label)
        if label_DHW is not None and bool(label_DHW.any()):
            d = int((label_DHW > 0).sum((1, 2)).argmax())
            outlines = ((label_DHW[d] > 0).numpy(),)
        prediction = f"{'positive' if case.positive else 'negative'}, p = {float(output_1.sigmoid()):.2f}"
        return draw_channels(case, prediction, d, outlines)


def make_classification(spec: TaskSpec) -> TrainableTask:
    """Returns the task for the class or grade in its parameters."""
    if spec.grade is not None:
        return make_grading(spec, spec.grade)
    if spec.case_class is None:
        raise TypeError("a classification has a class")
    task = Classification(spec, spec.case_class)
    return TrainableTask(
        spec=spec,
        loss=task.loss,
        primary=task.probability,
        score=task.score,
        panels=task.panels,
        naive_baseline=task.positive_share,
        prepare=task.prepare,
        outputs=1,
    )
