"""Metrics of the tasks, and structures on which segmentations are scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vfmalign.core.domain.declarations import CaseNumber, LabelMap, VolumeKind
from vfmalign.core.domain.errors import BadOption
from vfmalign.core.domain.jobs import MetricSpec

# Smallest relevant difference: at this size, readers of a comparison of two networks start to prefer one.
# False volume: a fifth of the 0.5 mL from which a prostate cancer counts as significant by volume (Stamey et al.,
# Cancer 71, 1993).
IMAGE_METRICS = (
    MetricSpec(name="psnr", unit="dB", higher_is_better=True, floor=1.0, smallest_difference=0.1),
    MetricSpec(name="ssim", unit="", higher_is_better=True, floor=0.05, smallest_difference=0.002),
)
CLASSIFICATION_METRICS = (
    MetricSpec(name="auroc", unit="", higher_is_better=True, floor=0.05, smallest_difference=0.01, of_set="auroc"),
    MetricSpec(
        name="balanced_accuracy",
        unit="",
        higher_is_better=True,
        floor=0.05,
        smallest_difference=0.01,
        of_set="balanced_accuracy",
    ),
)
GRADE_METRICS = (
    CLASSIFICATION_METRICS[0],
    MetricSpec(
        name="quadratic_kappa",
        unit="",
        higher_is_better=True,
        floor=0.05,
        smallest_difference=0.02,
        of_set="quadratic_kappa",
    ),
    MetricSpec(name="accuracy", unit="", higher_is_better=True, floor=0.05, smallest_difference=0.01),
)
SMALLEST_SHARE_OF_SD = 0.05
"""Smallest relevant difference of mean absolute errors, in standard deviations of the number over `train`.

It is rounded to two digits.
"""
MEAN_DICE = "mean_dice"


@dataclass(frozen=True)
class Structure:
    """A structure that a segmentation predicts.

    Attributes:
        name: name of the structure.
        label: label map that contains the structure.
        values: voxel values of the structure in the map; empty if every value above 0 belongs to the structure.
        may_be_empty: True if a case may lack the structure.
        weight: weight of the structure in the loss.
        within: label map of the structure that contains this structure; empty if there is no such map.
    """

    name: VolumeKind
    label: VolumeKind
    values: tuple[int, ...]
    may_be_empty: bool
    weight: float
    within: str


def list_structures(labels: Sequence[LabelMap]) -> tuple[Structure, ...]:
    """Returns the structures of label maps, in the order of the maps.

    Within a map, the lowest values define the order.
    """
    return tuple(
        Structure(
            name=name,
            label=label.name,
            # A map of one structure is a mask, whatever its values.
            values=() if len(label.structures) == 1 else tuple(v for v, n in label.values.items() if n == name),
            may_be_empty=label.may_be_empty,
            weight=label.weight,
            within=label.within,
        )
        for label in labels
        for name in label.structures
    )


def get_segmentation_metrics(structures: Sequence[Structure]) -> tuple[MetricSpec, ...]:
    """Returns the metrics of a segmentation, the primary one first.

    If the structure that is drawn last is the only structure or has a weight above 1, its Dice is the primary metric.
    In all other cases, the primary metric is the mean Dice over all structures. The other metrics are sorted by kind
    and then by map. The map that is drawn last comes first.

    Raises:
        BadOption: two metrics would have the same name.
    """
    maps = list(dict.fromkeys(structure.label for structure in structures))
    ordered = [structure for label in reversed(maps) for structure in structures if structure.label == label]
    last = structures[-1]
    if last.weight > 1.0 or len(structures) == 1:
        ordered = [last, *(structure for structure in ordered if structure is not last)]
        metrics = []
    else:
        metrics = [_dice(MEAN_DICE, "mean over the structures that the reference has")]
    metrics += [_dice(f"{structure.name}_dice", _describe_dice(structure)) for structure in ordered]
    metrics += [_false_volume(structure.name) for structure in ordered if structure.may_be_empty]
    metrics += [_hd95(structure.name) for structure in ordered]
    names = [metric.name for metric in metrics]
    if len(set(names)) != len(names):
        raise BadOption(
            f"the name {MEAN_DICE.removesuffix('_dice')} of a structure is reserved for the mean over the structures",
            field="task.parameters.labels",
            remedy="rename it in the dataset's declaration",
        )
    return tuple(metrics)


def get_regression_metrics(number: CaseNumber, sd: float = 0.0) -> tuple[MetricSpec, ...]:
    """Returns the metrics of a regression, the primary one first.

    Args:
        number: the number to predict.
        sd: standard deviation of the number over `train`, which determines the smallest relevant difference if the
            number declares none; 0 if it is not known.
    """
    smallest = number.smallest_difference or float(f"{SMALLEST_SHARE_OF_SD * sd:.2g}")
    return (
        MetricSpec(name="mae", unit=number.unit, higher_is_better=False, floor=smallest, smallest_difference=smallest),
        MetricSpec(name="r2", unit="", higher_is_better=True, floor=0.05, of_set="r2"),
        MetricSpec(name="pearson", unit="", higher_is_better=True, floor=0.05, of_set="pearson"),
    )


def _dice(name: str, empty_mask: str) -> MetricSpec:
    return MetricSpec(
        name=name, unit="", higher_is_better=True, floor=0.05, smallest_difference=0.01, empty_mask=empty_mask
    )


def _describe_dice(structure: Structure) -> str:
    no_value = "the case has no value and is left out of the mean" if structure.may_be_empty else "no value"
    present = f"{_with_article(structure.name)} in the reference and an empty prediction"
    return f"no {structure.name} in the reference: {no_value}; {present}: 0"


def _false_volume(name: str) -> MetricSpec:
    return MetricSpec(
        name=f"false_{name}_volume",
        unit="mL",
        higher_is_better=False,
        floor=0.05,
        smallest_difference=0.1,
        empty_mask=f"given for cases without {_with_article(name)} in the reference alone; an empty prediction: 0",
    )


def _hd95(name: str) -> MetricSpec:
    present = f"{_with_article(name)} in the reference and an empty prediction"
    return MetricSpec(
        name=f"{name}_hd95",
        unit="mm",
        higher_is_better=False,
        floor=0.5,
        smallest_difference=1.0,
        empty_mask=f"no {name} in the reference: no value; {present}: the diagonal of the volume",
    )


def _with_article(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
