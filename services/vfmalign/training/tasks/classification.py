"""Cancer classification: does a case contain a clinically significant lesion? One logit per case.

Significant means ISUP grade group 2 or more, where the grade is the value of the lesion map. A dataset whose maps never
exceed 1 has masks instead of grades, and any lesion counts.

Axes: N batch, D H W.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from vfmalign.core.domain.errors import BadDataset
from vfmalign.core.domain.tasks import CLASSIFICATION as SPEC
from vfmalign.training.data import Batch, PreparedCase
from vfmalign.training.figures import Panel
from vfmalign.training.tasks.task import Task

SIGNIFICANT_GRADE = 2


def positives(cases: Sequence[PreparedCase]) -> list[bool]:
    """Class of every case of a dataset, from the grades of its whole lesion map."""
    grades = [case.grade or 0 for case in cases]
    threshold = SIGNIFICANT_GRADE if max(grades) > 1 else 1
    return [grade >= threshold for grade in grades]


def loss(output_N1: Tensor, batch: Batch) -> Tensor:
    """Binary cross-entropy; batches contain both classes equally often."""
    if batch.positive_N is None:
        raise TypeError("classification needs the class of every case")
    return functional.binary_cross_entropy_with_logits(output_N1[:, 0], batch.positive_N)


def probability(output_1: Tensor, case: PreparedCase) -> float | None:
    """Predicted probability that the case is positive, from which the metrics of the set are computed."""
    return float(output_1.sigmoid())


def score(output_1: Tensor, case: PreparedCase) -> dict[str, float | None]:
    """Predicted probability under the name of every metric of the set."""
    return {metric.name: probability(output_1, case) for metric in SPEC.metrics}


def positive_share(train: Sequence[PreparedCase]) -> Callable[[PreparedCase], Tensor]:
    """The naive baseline: the share of positive training cases as a logit, whatever the case.

    Raises:
        BadDataset: all training cases have the same class, so that nothing can be learned of the other.
    """
    share = fmean(bool(case.positive) for case in train)
    if share in (0.0, 1.0):
        raise BadDataset(
            f"every training case is {'positive' if share else 'negative'}",
            subject="train",
            remedy="use cases with and without a clinically significant lesion",
        )
    return lambda case: torch.tensor([share]).logit()


def panels(output_1: Tensor, case: PreparedCase) -> list[Panel]:
    """Every channel of the slice with most lesion, otherwise the middle one, with the class and its prediction."""
    d = case.input_CDHW.shape[1] // 2
    outlines: tuple[NDArray[np.bool_], ...] = ()
    if case.lesions_DHW is not None and bool(case.lesions_DHW.any()):
        d = int((case.lesions_DHW > 0).sum((1, 2)).argmax())
        outlines = ((case.lesions_DHW[d] > 0).numpy(),)
    aspect = case.spacing_mm[1] / case.spacing_mm[2]
    prediction = f"{'positive' if case.positive else 'negative'}, p = {float(output_1.sigmoid()):.2f}"
    return [
        Panel(
            f"{modality}: {prediction}" if channel == 0 else modality,
            image_HW.numpy(),
            outlines=outlines,
            aspect=aspect,
        )
        for channel, (modality, image_HW) in enumerate(zip(case.modalities, case.input_CDHW[:, d], strict=True))
    ]


CLASSIFICATION = Task(
    spec=SPEC,
    loss=loss,
    primary=probability,
    score=score,
    panels=panels,
    naive_baseline=positive_share,
    positives=positives,
)
