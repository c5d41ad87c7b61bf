"""Segmentation: one softmax over the background and all structures.

Scores are computed for whole structures. Parts that the field of view cuts off count as missed (docs/numbers.md).

Structures are drawn in order. A later structure overwrites an earlier structure. For prostate mpMRI, the structures are
gland and lesion. The primary metric is the Dice of the lesion. The gland is learned too, because it shows the network
where a lesion can be. Because of the gland, even a batch without a lesion has a useful gradient.

Axes: N batch, C classes (background, then the structures), D H W.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

import numpy as np
import torch
from monai.losses.dice import DiceCELoss
from monai.metrics.hausdorff_distance import compute_hausdorff_distance
from monai.metrics.meandice import compute_dice
from torch import Tensor
from torch.nn.functional import one_hot

from vfmalign.core.domain.declarations import VolumeKind
from vfmalign.core.domain.metrics import MEAN_DICE, Structure
from vfmalign.core.domain.task_specs import TaskSpec
from vfmalign.imaging.field_of_view import mask_structure
from vfmalign.training.data import Batch, PreparedCase
from vfmalign.training.figures import Panel
from vfmalign.training.tasks.task import TrainableTask

MM3_PER_ML = 1000.0


@dataclass(frozen=True)
class Segmentation:
    """Loss, metrics and panels of a segmentation.

    Attributes:
        spec: the task.
    """

    spec: TaskSpec

    @property
    def structures(self) -> tuple[Structure, ...]:
        """The structures in the order in which they are drawn. Structure i has class i + 1."""
        return self.spec.structures

    def draw(self, labels: Mapping[VolumeKind, Tensor]) -> Tensor:
        """Assigns to every voxel the class of the last structure that contains the voxel, or background."""
        classes = torch.zeros_like(labels[self.structures[0].label], dtype=torch.int64)
        for number, structure in enumerate(self.structures, start=1):
            classes = torch.where(mask_structure(structure, labels), number, classes)
        return classes

    def get_region(self, classes_DHW: Tensor, structure: Structure) -> Tensor:
        """Voxels of a structure, including the structures inside it."""
        region_DHW = torch.zeros_like(classes_DHW, dtype=torch.bool)
        for number, other in enumerate(self.structures, start=1):
            if other == structure or self._is_within(other, structure):
                region_DHW |= classes_DHW == number
        return region_DHW

    def _is_within(self, inner: Structure, outer: Structure) -> bool:
        within = {structure.label: structure.within for structure in self.structures}
        seen, label = set[str](), inner.within
        while label and label not in seen:
            if label == outer.label:
                return True
            seen.add(label)
            label = within.get(label, "")
        return False

    @cached_property
    def _dice_ce(self) -> DiceCELoss:
        # Dice over the whole batch, smoothed by one voxel, because Dice is undefined for a patch without a lesion and
        # noisy for small lesions. A lesion is one voxel in a hundred, and unweighted training abandons it at once.
        return DiceCELoss(
            include_background=False,
            to_onehot_y=True,
            softmax=True,
            batch=True,
            smooth_nr=1.0,
            smooth_dr=1.0,
            weight=torch.tensor([1.0, *(structure.weight for structure in self.structures)]),
        )

    def loss(self, output_NCDHW: Tensor, batch: Batch) -> Tensor:
        """Dice plus cross-entropy (MONAI's `DiceCELoss`)."""
        target_N1DHW = self.draw(batch.labels)[:, None]
        value: Tensor = self._dice_ce.to(output_NCDHW.device)(output_NCDHW, target_N1DHW)
        return value

    def class_frequencies(self, train: Sequence[PreparedCase]) -> Callable[[PreparedCase], Tensor]:
        """Fits the naive baseline.

        At each voxel, the baseline predicts the frequency of each class over all training cases.
        """
        one_hot_labels = [one_hot(self.draw(case.labels), len(self.structures) + 1) for case in train]
        mean_CDHW = torch.stack(one_hot_labels).double().mean(0).movedim(-1, 0)
        return lambda case: mean_CDHW

    def primary(self, output_CDHW: Tensor, case: PreparedCase) -> float | None:
        """Returns the primary metric, which is a Dice; None if the reference has none of the metric's structures."""
        predicted_DHW, true_DHW = self._get_classes(output_CDHW, case)
        name = self.spec.primary_metric.name
        if name == MEAN_DICE:
            return _mean([self._dice(predicted_DHW, true_DHW, structure) for structure in self.structures])
        structure = next(structure for structure in self.structures if f"{structure.name}_dice" == name)
        return self._dice(predicted_DHW, true_DHW, structure)

    def score(self, output_CDHW: Tensor, case: PreparedCase) -> dict[str, float | None]:
        """Returns Dice and HD95 by structure.

        For optional structures that the case lacks, returns the predicted volume.
        """
        predicted_DHW, true_DHW = self._get_classes(output_CDHW, case)
        values: dict[str, float | None] = {}
        for structure in self.structures:
            predicted, true = (self.get_region(classes, structure) for classes in (predicted_DHW, true_DHW))
            predicted_ml = float(predicted.sum()) * math.prod(case.spacing_mm) / MM3_PER_ML
            values |= {
                f"{structure.name}_dice": dice(predicted, true),
                f"false_{structure.name}_volume": None if bool(true.any()) else predicted_ml,
                f"{structure.name}_hd95": hd95_mm(predicted, true, case.spacing_mm),
            }
        values[MEAN_DICE] = _mean([values[f"{structure.name}_dice"] for structure in self.structures])
        return {metric.name: values[metric.name] for metric in self.spec.metrics}

    def panels(self, output_CDHW: Tensor, case: PreparedCase) -> list[Panel]:
        """Draws channels, reference and prediction of one slice.

        The slice has the most voxels of the last structure or, without that structure, of all structures.
        """
        predicted_DHW, true_DHW = output_CDHW.argmax(0), self.draw(case.labels)
        last_D = (true_DHW == len(self.structures)).sum((1, 2))
        d = int((last_D * true_DHW[0].numel() + (true_DHW > 0).sum((1, 2))).argmax())
        aspect = case.spacing_mm[1] / case.spacing_mm[2]
        slices = [channel_HW.numpy() for channel_HW in case.input_CDHW[:, d]]
        named = zip(case.modalities, slices, strict=True)
        inputs = [Panel(f"input ({modality})", image_HW, aspect=aspect) for modality, image_HW in named]
        outlined = [
            Panel(title, slices[0], outlines=self._outline(classes_DHW[d]), aspect=aspect)
            for title, classes_DHW in (("reference", true_DHW), ("prediction", predicted_DHW))
        ]
        return inputs + outlined

    def _get_classes(self, output_CDHW: Tensor, case: PreparedCase) -> tuple[Tensor, Tensor]:
        """Predicted and true classes, (D, H, W): beyond the field of view, background is predicted."""
        predicted_DHW = output_CDHW.argmax(0)
        if case.whole is None:
            return predicted_DHW, self.draw(case.labels)
        true_DHW = self.draw(case.whole.labels)
        placed_DHW = torch.zeros_like(true_DHW)
        placed_DHW[case.whole.window] = predicted_DHW
        return placed_DHW, true_DHW

    def _dice(self, predicted_DHW: Tensor, true_DHW: Tensor, structure: Structure) -> float | None:
        return dice(self.get_region(predicted_DHW, structure), self.get_region(true_DHW, structure))

    def _outline(self, classes_HW: Tensor) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.bool_]], ...]:
        return tuple(self.get_region(classes_HW, structure).numpy() for structure in self.structures)


def dice(prediction: Tensor, reference: Tensor) -> float | None:
    """Computes the Dice of two masks of the same shape; None if the reference is empty."""
    value = float(compute_dice(prediction[None, None], reference[None, None], ignore_empty=True))
    return None if math.isnan(value) else value


def hd95_mm(prediction: Tensor, reference: Tensor, spacing_mm: tuple[float, float, float]) -> float | None:
    """95th percentile of the distance between the surfaces of two masks, in mm.

    Of the two directions, the larger value counts.

    Returns:
        The value is None if the reference is empty, and the diagonal of the volume if the prediction is empty.
    """
    if not bool(reference.any()):
        return None
    if not bool(prediction.any()):
        return math.hypot(*(side * step for side, step in zip(reference.shape, spacing_mm, strict=True)))
    pair = (prediction[None, None], reference[None, None])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # monai 1.6 calls itself with a deprecated argument
        return float(compute_hausdorff_distance(*pair, include_background=True, percentile=95.0, spacing=spacing_mm))


def _mean(values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return fmean(present) if present else None


def make_segmentation(spec: TaskSpec) -> TrainableTask:
    """Returns the task for the structures in its parameters."""
    task = Segmentation(spec)
    return TrainableTask(
        spec=spec,
        loss=task.loss,
        primary=task.primary,
        score=task.score,
        panels=task.panels,
        naive_baseline=task.class_frequencies,
        classes=len(spec.structures) + 1,
    )
