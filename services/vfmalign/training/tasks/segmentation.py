"""Lesion segmentation: background, gland and lesion as one softmax; Dice of the lesion is the primary metric.

The gland is learned as well because it tells the network where a lesion can be, and because a batch without a lesion
then still has a useful gradient.

Axes: N batch, C classes, D H W.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import torch
from monai.losses.dice import DiceCELoss
from monai.metrics.hausdorff_distance import compute_hausdorff_distance
from monai.metrics.meandice import compute_dice
from torch import Tensor
from torch.nn.functional import one_hot

from vfmalign.core.domain.tasks import SEGMENTATION as SPEC
from vfmalign.training.data import Batch, PreparedCase
from vfmalign.training.figures import Panel
from vfmalign.training.tasks.task import Task

CLASSES = ("background", "gland", "lesion")
GLAND, LESION = 1, 2
LESION_WEIGHT = 5.0
"""Weight of the lesion in Dice and cross-entropy. It is one voxel in a hundred, and unweighted training abandons the
class at once.
"""
MM3_PER_ML = 1000.0


@cache
def _dice_ce() -> DiceCELoss:
    # Dice over the whole batch, smoothed by one voxel, because Dice is undefined for a patch without a lesion and noisy
    # for small lesions.
    return DiceCELoss(
        include_background=False,
        to_onehot_y=True,
        softmax=True,
        batch=True,
        smooth_nr=1.0,
        smooth_dr=1.0,
        weight=torch.tensor([1.0, 1.0, LESION_WEIGHT]),
    )


def labels(gland: Tensor | None, lesions: Tensor | None) -> Tensor:
    """Class of every voxel: lesion of any grade, otherwise gland, otherwise background."""
    if gland is None or lesions is None:
        raise TypeError("segmentation needs gland and lesions: both are in its spec's labels")
    return torch.where(lesions > 0, LESION, torch.where(gland > 0, GLAND, 0))


def loss(output_NCDHW: Tensor, batch: Batch) -> Tensor:
    """Dice plus cross-entropy (MONAI's `DiceCELoss`)."""
    target_N1DHW = labels(batch.gland_NDHW, batch.lesions_NDHW)[:, None]
    value: Tensor = _dice_ce().to(output_NCDHW.device)(output_NCDHW, target_N1DHW)
    return value


def dice(prediction: Tensor, reference: Tensor) -> float | None:
    """Dice of two masks of one shape; None where the reference is empty."""
    value = float(compute_dice(prediction[None, None], reference[None, None], ignore_empty=True))
    return None if math.isnan(value) else value


def hd95_mm(prediction: Tensor, reference: Tensor, spacing_mm: tuple[float, float, float]) -> float | None:
    """95th percentile of the distance between the surfaces of two masks, the larger of both directions, in mm.

    Returns:
        None where the reference is empty; the diagonal of the volume where the prediction is empty.
    """
    if not bool(reference.any()):
        return None
    if not bool(prediction.any()):
        return math.hypot(*(side * step for side, step in zip(reference.shape, spacing_mm, strict=True)))
    pair = (prediction[None, None], reference[None, None])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # monai 1.6 calls itself with a deprecated argument
        return float(compute_hausdorff_distance(*pair, include_background=True, percentile=95.0, spacing=spacing_mm))


def class_frequencies(train: Sequence[PreparedCase]) -> Callable[[PreparedCase], Tensor]:
    """The naive baseline: frequency of each class at each voxel of the training cases, whatever the case."""
    one_hot_labels = [one_hot(labels(case.gland_DHW, case.lesions_DHW).long(), len(CLASSES)) for case in train]
    mean_CDHW = torch.stack(one_hot_labels).double().mean(0).movedim(-1, 0)
    return lambda case: mean_CDHW


def primary(output_CDHW: Tensor, case: PreparedCase) -> float | None:
    """Dice of the lesion; None for a case without one."""
    return dice(output_CDHW.argmax(0) == LESION, labels(case.gland_DHW, case.lesions_DHW) == LESION)


def score(output_CDHW: Tensor, case: PreparedCase) -> dict[str, float | None]:
    """Dice and HD95 of lesion and gland, and the predicted lesion volume in cases without a lesion.

    The lesion is part of the gland.
    """
    predicted_DHW, true_DHW = output_CDHW.argmax(0), labels(case.gland_DHW, case.lesions_DHW)
    healthy = not bool((true_DHW == LESION).any())
    predicted_ml = float((predicted_DHW == LESION).sum()) * math.prod(case.spacing_mm) / MM3_PER_ML
    return {
        "lesion_dice": dice(predicted_DHW == LESION, true_DHW == LESION),
        "gland_dice": dice(predicted_DHW >= GLAND, true_DHW >= GLAND),
        "false_lesion_volume": predicted_ml if healthy else None,
        "lesion_hd95": hd95_mm(predicted_DHW == LESION, true_DHW == LESION, case.spacing_mm),
        "gland_hd95": hd95_mm(predicted_DHW >= GLAND, true_DHW >= GLAND, case.spacing_mm),
    }


def panels(output_CDHW: Tensor, case: PreparedCase) -> list[Panel]:
    """Slice with most lesion (otherwise most gland): every channel, then reference and prediction as outlines."""
    predicted_DHW, true_DHW = output_CDHW.argmax(0), labels(case.gland_DHW, case.lesions_DHW)
    area_D = (true_DHW == LESION).sum((1, 2)) * true_DHW[0].numel() + (true_DHW >= GLAND).sum((1, 2))
    d = int(area_D.argmax())
    aspect = case.spacing_mm[1] / case.spacing_mm[2]
    slices = [channel_HW.numpy() for channel_HW in case.input_CDHW[:, d]]
    named = zip(case.modalities, slices, strict=True)
    inputs = [Panel(f"input ({modality})", image_HW, aspect=aspect) for modality, image_HW in named]
    outlined = [
        Panel(title, slices[0], outlines=_outlines(labels_DHW[d]), aspect=aspect)
        for title, labels_DHW in (("reference", true_DHW), ("prediction", predicted_DHW))
    ]
    return inputs + outlined


def _outlines(labels_HW: Tensor) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.bool_]], ...]:
    return ((labels_HW >= GLAND).numpy(), (labels_HW == LESION).numpy())


SEGMENTATION = Task(
    spec=SPEC,
    loss=loss,
    primary=primary,
    score=score,
    panels=panels,
    naive_baseline=class_frequencies,
    classes=len(CLASSES),
)
