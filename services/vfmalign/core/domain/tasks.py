"""Descriptions of the tasks that models are fine-tuned for: input transform, labels and metrics.

Losses and networks live in `training.tasks`, which has one entry for each entry here and needs torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vfmalign.core.domain.declarations import Modality, VolumeKind
from vfmalign.core.domain.errors import BadOption
from vfmalign.core.domain.jobs import MetricSpec


@dataclass(frozen=True)
class TaskSpec:
    """One task.

    Attributes:
        name: key in `TASKS`.
        input_transform: name in `imaging.input_transforms.INPUT_TRANSFORMS`; features before and after fine-tuning
            are extracted with it.
        labels: label maps that every case must have.
        metrics: metrics of a test case, the primary one first.
        naive_baseline: the prediction without a network that every network must beat.
        modalities: channels that the model's input must have.
    """

    name: str
    input_transform: str
    labels: tuple[VolumeKind, ...]
    metrics: tuple[MetricSpec, ...]
    naive_baseline: str
    modalities: tuple[Modality, ...] = ()

    @property
    def primary_metric(self) -> MetricSpec:
        """The metric that selects the checkpoint and forms the gain."""
        return self.metrics[0]

    def check_input(self, model: str, modalities: Sequence[Modality]) -> None:
        """Checks that the model's input has the channels of the task.

        Raises:
            BadOption: a channel is missing; the error names it.
        """
        for modality in self.modalities:
            if modality not in modalities:
                raise BadOption(
                    f"{self.name} needs {modality}, which {model} does not take as input",
                    field="model",
                    remedy=f"choose a model with the modalities {', '.join(self.modalities)}",
                )


_DISTANCE = (
    "no {0} in the reference: no value; a {0} in the reference and an empty prediction: the diagonal of the volume"
)
_PSNR = MetricSpec(name="psnr", unit="dB", higher_is_better=True, floor=1.0, smallest_difference=0.1)
_SSIM = MetricSpec(name="ssim", unit="", higher_is_better=True, floor=0.05, smallest_difference=0.002)


# The smallest relevant differences are those at which readers of a comparison of networks would begin to prefer one.
# False lesion volume: a fifth of the 0.5 mL from which a prostate cancer counts as significant by volume (Stamey et
# al., Cancer 71, 1993).
SEGMENTATION = TaskSpec(
    name="segmentation",
    input_transform="identity",
    labels=("gland", "lesions"),
    metrics=(
        MetricSpec(
            name="lesion_dice",
            unit="",
            higher_is_better=True,
            floor=0.05,
            smallest_difference=0.01,
            empty_mask="no lesion in the reference: the case has no value and is left out of the mean; "
            "a lesion in the reference and an empty prediction: 0",
        ),
        MetricSpec(
            name="gland_dice",
            unit="",
            higher_is_better=True,
            floor=0.05,
            smallest_difference=0.01,
            empty_mask="no gland in the reference: no value; a gland in the reference and an empty prediction: 0",
        ),
        MetricSpec(
            name="false_lesion_volume",
            unit="mL",
            higher_is_better=False,
            floor=0.05,
            smallest_difference=0.1,
            empty_mask="given for cases without a lesion in the reference alone; an empty prediction: 0",
        ),
        MetricSpec(
            name="lesion_hd95",
            unit="mm",
            higher_is_better=False,
            floor=0.5,
            smallest_difference=1.0,
            empty_mask=_DISTANCE.format("lesion"),
        ),
        MetricSpec(
            name="gland_hd95",
            unit="mm",
            higher_is_better=False,
            floor=0.5,
            smallest_difference=1.0,
            empty_mask=_DISTANCE.format("gland"),
        ),
    ),
    naive_baseline="each voxel's commonest class in the training cases",
)

SUPER_RESOLUTION = TaskSpec(
    name="super_resolution",
    input_transform="half_resolution",
    labels=(),
    metrics=(_PSNR, _SSIM),
    naive_baseline="the input of half the resolution",
)

DISTORTION = TaskSpec(
    name="distortion",
    input_transform="distorted_diffusion",
    labels=(),
    metrics=(_PSNR, _SSIM),
    naive_baseline="the uncorrected DWI",
    modalities=("dwi",),
)

# ADC = ln(S0 / Sb) / b needs two b-values; a study holds one, and its value is unknown. The naive baseline takes T2W
# for S0, because both weight the same proton density and T2, and fits three coefficients, which absorb b and the gains
# of both scans, by least squares on the training cases.
TRANSLATION = TaskSpec(
    name="translation",
    input_transform="hidden_adc",
    labels=(),
    metrics=(_PSNR, _SSIM),
    naive_baseline="closed form: ADC linear in ln DWI and ln T2W, fitted on the training cases",
    modalities=("t2w", "dwi", "adc"),
)

CLASSIFICATION = TaskSpec(
    name="classification",
    input_transform="identity",
    labels=("lesions",),
    metrics=(
        MetricSpec(name="auroc", unit="", higher_is_better=True, floor=0.05, smallest_difference=0.01, of_set="auroc"),
        MetricSpec(
            name="balanced_accuracy",
            unit="",
            higher_is_better=True,
            floor=0.05,
            smallest_difference=0.01,
            of_set="balanced_accuracy",
        ),
    ),
    naive_baseline="the share of positive training cases, for every case",
)

TASKS: dict[str, TaskSpec] = {
    spec.name: spec for spec in (SEGMENTATION, SUPER_RESOLUTION, DISTORTION, TRANSLATION, CLASSIFICATION)
}


def get_task_spec(name: str) -> TaskSpec:
    """Returns the task of that name.

    Raises:
        BadOption: there is none.
    """
    if name not in TASKS:
        raise BadOption(f"unknown task {name[:64]!r}", field="task", remedy=f"choose one of {', '.join(TASKS)}")
    return TASKS[name]
