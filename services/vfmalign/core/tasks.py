"""The tasks that models are fine-tuned for, as far as a service without torch must know them.

Knows each task's name, input transform, labels and metrics. Knows nothing of losses or networks: those live in
`training.tasks`, which has one entry for each entry here.
"""

from __future__ import annotations

from dataclasses import dataclass

from vfmalign.core.artifacts import MetricSpec, VolumeKind
from vfmalign.core.errors import BadOption


@dataclass(frozen=True)
class TaskSpec:
    """One task.

    Attributes:
        name: its key in `TASKS`.
        input_transform: name in `imaging.transforms.INPUT_TRANSFORMS`; features before and after see the same inputs.
        labels: label maps that every case must have.
        metrics: the metrics of a test case, the primary one first.
    """

    name: str
    input_transform: str
    labels: tuple[VolumeKind, ...]
    metrics: tuple[MetricSpec, ...]

    @property
    def primary_metric(self) -> MetricSpec:
        """The metric that selects the checkpoint and forms the gain."""
        return self.metrics[0]


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
    ),
)

SUPER_RESOLUTION = TaskSpec(
    name="super_resolution",
    input_transform="half_resolution",
    labels=(),
    metrics=(
        MetricSpec(name="psnr", unit="dB", higher_is_better=True, floor=1.0),
        MetricSpec(name="ssim", unit="", higher_is_better=True, floor=0.05),
    ),
)

TASKS: dict[str, TaskSpec] = {spec.name: spec for spec in (SEGMENTATION, SUPER_RESOLUTION)}


def get_task_spec(name: str) -> TaskSpec:
    """Looks a task up.

    Raises:
        BadOption: no task has this name.
    """
    if name not in TASKS:
        raise BadOption(f"no task is called {name[:64]!r}", field="task", remedy=f"choose one of {', '.join(TASKS)}")
    return TASKS[name]
