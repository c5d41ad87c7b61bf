"""The tasks that models are fine-tuned for, as far as a service without torch must know them.

Knows each task's name, input transform, labels and metrics. Knows nothing of losses or networks: those live in
`training.tasks`, which has one entry for each entry here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vfmalign.core.domain.artifacts import MetricSpec, Modality, VolumeKind
from vfmalign.core.domain.errors import BadOption


@dataclass(frozen=True)
class TaskSpec:
    """One task.

    Attributes:
        name: its key in `TASKS`.
        input_transform: name in `imaging.transforms.INPUT_TRANSFORMS`; features before and after see the same inputs.
        labels: label maps that every case must have.
        metrics: the metrics of a test case, the primary one first.
        naive_baseline: what is predicted without any network, to be beaten.
        modalities: channels that a model's input must have.
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
        """Refuses a model whose input lacks a channel that the task is about.

        Raises:
            BadOption: naming the channel.
        """
        for modality in self.modalities:
            if modality not in modalities:
                raise BadOption(
                    f"{self.name} is about {modality}, which is no channel of {model}'s input",
                    field="model",
                    remedy=f"choose a model that sees {', '.join(self.modalities)}",
                )


_DISTANCE = (
    "no {0} in the reference: no value; a {0} in the reference and an empty prediction: the diagonal of the volume"
)
_PSNR = MetricSpec(name="psnr", unit="dB", higher_is_better=True, floor=1.0)
_SSIM = MetricSpec(name="ssim", unit="", higher_is_better=True, floor=0.05)


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
            empty_mask="no lesion in the reference: the case has no value and is left out of the mean; "
            "a lesion in the reference and an empty prediction: 0",
        ),
        MetricSpec(
            name="gland_dice",
            unit="",
            higher_is_better=True,
            floor=0.05,
            empty_mask="no gland in the reference: no value; a gland in the reference and an empty prediction: 0",
        ),
        MetricSpec(
            name="false_lesion_volume",
            unit="mL",
            higher_is_better=False,
            floor=0.05,
            empty_mask="given for cases without a lesion in the reference alone; an empty prediction: 0",
        ),
        MetricSpec(
            name="lesion_hd95",
            unit="mm",
            higher_is_better=False,
            floor=0.5,
            empty_mask=_DISTANCE.format("lesion"),
        ),
        MetricSpec(
            name="gland_hd95", unit="mm", higher_is_better=False, floor=0.5, empty_mask=_DISTANCE.format("gland")
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

# ADC = ln(S0 / Sb) / b takes two b-values, and a study holds one, without its number. What stands in for S0 is T2W,
# another weighting of the same proton density and T2; what stands in for b and both scanners' gains are three
# coefficients, fitted by least squares on the training cases.
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
        MetricSpec(name="auroc", unit="", higher_is_better=True, floor=0.05, of_set="auroc"),
        MetricSpec(name="balanced_accuracy", unit="", higher_is_better=True, floor=0.05, of_set="balanced_accuracy"),
    ),
    naive_baseline="the share of positive training cases, for every case",
)

TASKS: dict[str, TaskSpec] = {
    spec.name: spec for spec in (SEGMENTATION, SUPER_RESOLUTION, DISTORTION, TRANSLATION, CLASSIFICATION)
}


def get_task_spec(name: str) -> TaskSpec:
    """Looks a task up.

    Raises:
        BadOption: no task has this name.
    """
    if name not in TASKS:
        raise BadOption(f"no task is called {name[:64]!r}", field="task", remedy=f"choose one of {', '.join(TASKS)}")
    return TASKS[name]
