"""Classification of ordered grades: one logit for each grade of the training cases.

Axes: N batch, K grades in ascending order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from vfmalign.core.domain.declarations import CaseGrade
from vfmalign.core.domain.task_specs import TaskSpec
from vfmalign.training.data import Batch, PreparedCase
from vfmalign.training.figures import Panel
from vfmalign.training.tasks.task import TrainableTask, draw_channels


@dataclass(frozen=True)
class Grading:
    """Loss, metrics and panels for one grade.

    Attributes:
        grade: the grade, with the lowest grade that counts as positive.
        grade_K: grades of the training cases, in order.
    """

    grade: CaseGrade
    grade_K: Tensor

    def prepare(self, cases: Sequence[PreparedCase]) -> list[PreparedCase]:
        """Adds the grade to each case, and whether it counts as positive."""
        grades = [case.grades[self.grade.name] for case in cases]
        return [
            replace(case, positive=grade >= self.grade.at_least, truth=float(grade))
            for case, grade in zip(cases, grades, strict=True)
        ]

    def loss(self, output_NK: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy. All grades are equally frequent in batches."""
        if batch.truth_N is None:
            raise TypeError("a classification of grades needs the grade of every case")
        return functional.cross_entropy(output_NK, torch.bucketize(batch.truth_N, self.grade_K.to(output_NK.device)))

    def probability(self, output_K: Tensor, case: PreparedCase) -> float | None:
        """Returns the predicted probability that the case counts as positive."""
        # Rounded to the 1 that a sum of probabilities may exceed by a rounding error.
        return min(1.0, float(output_K.double().softmax(0)[self.grade_K >= self.grade.at_least].sum()))

    def score(self, output_K: Tensor, case: PreparedCase) -> dict[str, float | None]:
        """Probability of a positive case, predicted grade, and whether it is the true grade."""
        grade = float(self.grade_K[output_K.argmax()])
        return {
            "auroc": self.probability(output_K, case),
            "quadratic_kappa": grade,
            "accuracy": float(grade == case.truth),
        }

    def grade_shares(self, train: Sequence[PreparedCase]) -> Callable[[PreparedCase], Tensor]:
        """Fits the naive baseline, which predicts the shares of the training cases' grades as logits."""
        counts = Counter(case.truth for case in train)
        share_K = torch.tensor([counts[grade] / len(train) for grade in self.grade_K.tolist()])
        return lambda case: share_K.log()

    def panels(self, output_K: Tensor, case: PreparedCase) -> list[Panel]:
        """Every channel of the middle slice, with the grade and the prediction."""
        predicted, positive = float(self.grade_K[output_K.argmax()]), self.probability(output_K, case)
        text = f"{self.grade.name} {case.truth:g}, predicted {predicted:g}, p(≥{self.grade.at_least}) = {positive:.2f}"
        return draw_channels(case, text)


def make_grading(spec: TaskSpec, grade: CaseGrade) -> TrainableTask:
    """Returns the task for a grade. The spec must be fitted to the training cases."""
    task = Grading(grade, torch.tensor(spec.grades, dtype=torch.float64))
    return TrainableTask(
        spec=spec,
        loss=task.loss,
        primary=task.probability,
        score=task.score,
        panels=task.panels,
        naive_baseline=task.grade_shares,
        prepare=task.prepare,
        outputs=len(spec.grades),
    )
