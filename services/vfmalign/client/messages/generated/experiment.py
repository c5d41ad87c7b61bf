"""Records of `experiment.proto`, by `make proto`; do not edit."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from google.protobuf.message import Message
from pydantic import Field

from vfmalign.client.messages.base import ApiMessage, Time, unset_means
from vfmalign.client.messages.generated.alignment import CheckState
from vfmalign.client.messages.generated.common import Deletion, ObjectRef, Progress
from vfmalign.client.messages.generated.finetuning import Failure, Recipe
from vfmalign.client.messages.methods import ExperimentSpecMethods
from vfmalign.client.messages.tasks import Task
from vfmalign.core.domain.modality_map import ModalityMap
from vfmalign.core.domain.record import Id, OptionalSha256
from vfmalign.v1 import experiment_pb2

__all__ = [
    "SmallestDifference",
    "ExperimentSpec",
    "ExperimentCell",
    "ExperimentCounts",
    "Experiment",
    "DeleteExperimentRequest",
    "DeleteExperimentResponse",
    "ExperimentState",
]
ExperimentState = Literal["queued", "running", "succeeded", "failed", "cancelled"]
"""State of an experiment."""


class SmallestDifference(ApiMessage):
    """The smallest relevant difference of a metric."""

    PROTO: ClassVar[type[Message]] = experiment_pb2.SmallestDifference

    metric: str
    """Name of the metric, such as `lesion_dice`."""
    value: float = Field(gt=0.0, le=1000000000000000.0, allow_inf_nan=False)
    """The difference, in the metric's unit."""


class ExperimentSpec(ExperimentSpecMethods):
    """Specification of an experiment. An experiment has at most 1,000 cells: models × tasks × seeds × numbers of
    training cases. `frozen` counts as one more number.
    """

    PROTO: ClassVar[type[Message]] = experiment_pb2.ExperimentSpec

    model_ids: tuple[Id, ...] = ()
    """Pretrained model ids, each once."""
    dataset_id: Id
    """Dataset id."""
    dataset_digest: OptionalSha256 = ""
    """Expected digest of the dataset, hex; empty accepts the stored dataset and pins it for all checks."""
    tasks: tuple[Task, ...] = ()
    """Tasks, each once."""
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, le=9223372036854775807)], ...], unset_means((0, 1, 2))] = (
        0,
        1,
        2,
    )
    """Seeds of all random numbers, each once. With fewer than 3, no verdict is GAIN, EQUIVALENT or HARM."""
    recipe: Recipe = Recipe()
    """How the pretrained networks are fine-tuned, in every check; the baselines share its budget as in `CheckSpec`."""
    permutations: Annotated[int, unset_means(1000)] = Field(default=1000, ge=1, le=100000)
    """Permutations of each check's tests."""
    bootstrap_resamples: Annotated[int, unset_means(2000)] = Field(default=2000, ge=100, le=100000)
    """Bootstrap resamples of each check's intervals."""
    interval_level: Annotated[float, unset_means(0.95)] = Field(default=0.95, gt=0.0, lt=1.0, allow_inf_nan=False)
    """Coverage of intervals."""
    max_running: Annotated[int, unset_means(2)] = Field(default=2, ge=1, le=64)
    """Checks of this experiment that run at once. The service's own limit applies as well."""
    title: str = ""
    """Title of the report; empty means the experiment's id. It must not identify a patient."""
    smallest_differences: tuple[SmallestDifference, ...] = ()
    """Smallest relevant differences that replace the metrics' own. Each is for the primary metric of one of the tasks,
    at most once.
    """
    modality_map: ModalityMap = Field(default_factory=dict)
    """Maps modalities of the dataset to inputs of the models, such as `t1w` to `input`. An entry applies to the models
    that have this input; at least one must have it. Inputs that are not named take the modality of the same name. No
    input occurs twice.
    """
    shuffled_labels: bool = False
    """Run a control for every model and task with the first seed: a check with `CheckSpec.shuffled_labels`, for
    comparison with the shift of the cell.
    """
    allow_cut_organs: bool = False
    """`CheckSpec.allow_cut_organs` of every check; false by default."""
    frozen: bool = False
    """Also run every cell with `CheckSpec.frozen`, with all training cases or the largest number of `train_cases`. The
    report shows the scores of both beside each other. All other numbers of the report are those of the fine-tuned
    networks.
    """
    train_cases: tuple[Annotated[int, Field(ge=0, le=100000)], ...] = ()
    """Numbers of training cases (`CheckSpec.train_cases`), each once: 0 for all cases of `train`, or from 2 to 100,000.
    Every model, task and seed has a cell for each number. Empty means all cases. The claims, the averages and the
    control are about the cells with all cases, or with the largest number if 0 is not in the list.
    """


class ExperimentCell(ApiMessage):
    """One cell: a model on a task with a seed and a number of training cases."""

    PROTO: ClassVar[type[Message]] = experiment_pb2.ExperimentCell

    model_id: str
    """Model id."""
    task: str
    """Short form of the task, such as `segmentation` or `segmentation:label=hippocampus,structure=anterior`."""
    seed: int
    """Seed."""
    check_id: str
    """Id of its check; the check exists once the cell has started."""
    state: CheckState
    """State of its check; QUEUED also before the check exists."""
    progress: Progress = Progress()
    """Current activity of its check, or the reason for waiting."""
    end_time: Time | None = None
    """When its check ended; absent if it has not."""
    failure: Failure | None = None
    """Set when its check failed."""
    shuffled_labels: bool = False
    """Whether the cell is a control: its check has `CheckSpec.shuffled_labels`."""
    frozen: bool = False
    """Whether its check has `CheckSpec.frozen`."""
    train_cases: int = 0
    """Number of training cases, `CheckSpec.train_cases`; 0 for all."""


class ExperimentCounts(ApiMessage):
    """Number of cells in each state."""

    PROTO: ClassVar[type[Message]] = experiment_pb2.ExperimentCounts

    queued: int = 0
    """Waiting to start."""
    running: int = 0
    """Running."""
    succeeded: int = 0
    """With results."""
    failed: int = 0
    """Without results, because the check failed."""
    cancelled: int = 0
    """Without results, because the check was cancelled."""


class Experiment(ApiMessage):
    """An experiment."""

    PROTO: ClassVar[type[Message]] = experiment_pb2.Experiment

    experiment_id: str
    """Id."""
    spec: ExperimentSpec
    """The request, with defaults filled in."""
    state: ExperimentState
    """State."""
    progress: Progress = Progress()
    """Number of ended checks and of all checks, and current activity or reason for waiting. Phases are `queued`,
    `starting`, `checks`, `report`, `stopping` and `finished`; the unit is `check`.
    """
    create_time: Time
    """When it was created."""
    start_time: Time | None = None
    """When it started; absent if it has not."""
    end_time: Time | None = None
    """When it ended; absent if it has not."""
    cells: tuple[ExperimentCell, ...] = ()
    """Cells in the order in which they start: by seed, then number of training cases, then task, then model."""
    counts: ExperimentCounts = ExperimentCounts()
    """Cells by state."""
    failure: Failure | None = None
    """Set when it failed."""
    report_json: ObjectRef | None = None
    """`experiments/<id>/report.json`; absent until it succeeded."""
    report_html: ObjectRef | None = None
    """`experiments/<id>/report.html`, self-contained; absent until it succeeded."""
    cells_csv: ObjectRef | None = None
    """`experiments/<id>/cells.csv`, one line per cell; absent until it succeeded."""
    created_by: str = ""
    """Who created it: issuer and subject of the token, as `issuer#subject`; empty if unknown."""
    dataset_digest: str = ""
    """Digest of the dataset of all checks, hex."""
    model_sha256: tuple[str, ...] = ()
    """Digests of the pretrained models' weights, hex, in the order of `spec.model_ids`."""


class DeleteExperimentRequest(ApiMessage):
    """Request of DeleteExperiment."""

    PROTO: ClassVar[type[Message]] = experiment_pb2.DeleteExperimentRequest

    experiment_id: Id
    """Experiment id."""
    dry_run: bool = False
    """Delete nothing; return what the call would delete."""


class DeleteExperimentResponse(ApiMessage):
    """Response of DeleteExperiment."""

    PROTO: ClassVar[type[Message]] = experiment_pb2.DeleteExperimentResponse

    deletion: Deletion = Deletion()
    """The deleted objects. After an interrupted deletion, those that were left."""
