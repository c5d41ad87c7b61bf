"""Messages of `ExperimentService`; fields and limits are documented in `experiment.proto`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, ClassVar

from google.protobuf.message import Message
from pydantic import BeforeValidator, Field

from vfmalign.client.messages.base import ApiMessage
from vfmalign.client.messages.checks import (
    DEFAULT_BOOTSTRAP_RESAMPLES,
    DEFAULT_INTERVAL_LEVEL,
    DEFAULT_PERMUTATIONS,
    BootstrapResamples,
    IntervalLevel,
    Permutations,
)
from vfmalign.client.messages.common import Failure, ObjectRef, Progress, State
from vfmalign.client.messages.jobs import Recipe, Seed
from vfmalign.client.messages.tasks import Task
from vfmalign.core.domain.modality_map import ModalityMap
from vfmalign.core.domain.record import Id, OptionalSha256
from vfmalign.v1 import experiment_pb2

DEFAULT_SEEDS = (0,)
DEFAULT_MAX_RUNNING = 2
Seeds = Annotated[tuple[Seed, ...], BeforeValidator(lambda seeds: seeds or DEFAULT_SEEDS)]
MaxRunning = Annotated[int, BeforeValidator(lambda value: value or DEFAULT_MAX_RUNNING), Field(ge=1)]


class SmallestDifference(ApiMessage):
    """The smallest relevant difference of a metric, in the metric's unit."""

    PROTO: ClassVar[type[Message]] = experiment_pb2.SmallestDifference

    metric: str
    value: float = Field(gt=0.0, le=1_000.0, allow_inf_nan=False)


class ExperimentSpec(ApiMessage):
    """What an experiment runs: models × tasks × seeds. Numbers that were 0 have their defaults.

    Attributes:
        model_ids: 1 to 32 pretrained models, each once.
        dataset_digest: digest that the dataset must have; empty accepts the stored one.
        tasks: at least one, each once.
        seeds: each once.
        recipe: recipe of the pretrained networks in every check.
        permutations: permutations of each check's tests.
        bootstrap_resamples: resamples of the intervals of each check.
        interval_level: coverage of intervals, in (0, 1).
        max_running: checks of this experiment that run at once, at most 64.
        title: title of the report; empty means the id.
        smallest_differences: smallest relevant differences that replace the metrics' own, each metric once.
        shuffled_labels: whether every model and task has a control with the first seed.
        allow_cut_organs: whether the checks use cases of whose structures little lies in a model's field of view.
    """

    PROTO: ClassVar[type[Message]] = experiment_pb2.ExperimentSpec

    model_ids: tuple[Id, ...] = ()
    dataset_id: Id
    dataset_digest: OptionalSha256 = ""
    tasks: tuple[Task, ...] = ()
    seeds: Seeds = DEFAULT_SEEDS
    recipe: Recipe = Recipe()
    permutations: Permutations = DEFAULT_PERMUTATIONS
    bootstrap_resamples: BootstrapResamples = DEFAULT_BOOTSTRAP_RESAMPLES
    interval_level: IntervalLevel = DEFAULT_INTERVAL_LEVEL
    max_running: MaxRunning = DEFAULT_MAX_RUNNING
    title: str = ""
    smallest_differences: tuple[SmallestDifference, ...] = ()
    modality_map: ModalityMap = Field(default_factory=dict)
    shuffled_labels: bool = Field(default=False, exclude_if=lambda shuffled: not shuffled)
    allow_cut_organs: bool = Field(default=False, exclude_if=lambda allowed: not allowed)


class ExperimentCell(ApiMessage):
    """One model on one task with one seed.

    Attributes:
        check_id: id of its check, which exists once the cell has begun.
        state: state of its check; `queued` also before the check exists.
        progress: what its check is doing or waiting for.
        end_time: absent until its check has ended.
        failure: set if its check failed.
        shuffled_labels: whether it is a control.
    """

    PROTO: ClassVar[type[Message]] = experiment_pb2.ExperimentCell

    model_id: str
    task: str
    seed: int
    check_id: str
    state: State
    progress: Progress = Progress()
    end_time: datetime | None = None
    failure: Failure | None = None
    shuffled_labels: bool = False


class ExperimentCounts(ApiMessage):
    """Number of cells in each state."""

    PROTO: ClassVar[type[Message]] = experiment_pb2.ExperimentCounts

    queued: int = 0
    running: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0


class Experiment(ApiMessage):
    """An experiment.

    Attributes:
        progress: checks that have ended, and what the experiment is doing or waiting for.
        start_time: absent until it began.
        end_time: absent until it ended.
        cells: in the order in which they begin; empty in lists.
        failure: set if it failed.
        report_json: absent until it succeeded.
        report_html: absent until it succeeded.
        cells_csv: absent until it succeeded.
    """

    PROTO: ClassVar[type[Message]] = experiment_pb2.Experiment

    experiment_id: str
    spec: ExperimentSpec
    state: State
    progress: Progress = Progress()
    create_time: datetime
    start_time: datetime | None = None
    end_time: datetime | None = None
    cells: tuple[ExperimentCell, ...] = ()
    counts: ExperimentCounts = ExperimentCounts()
    failure: Failure | None = None
    report_json: ObjectRef | None = None
    report_html: ObjectRef | None = None
    cells_csv: ObjectRef | None = None
