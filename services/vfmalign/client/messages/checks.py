"""Messages of `AlignmentService`; fields, units and sources are documented in `alignment.proto`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal

from google.protobuf.message import Message
from pydantic import BeforeValidator, Field

from vfmalign.client.messages.base import ApiMessage
from vfmalign.client.messages.common import Estimate, Failure, Interval, ObjectRef, Progress, SoftwareVersion, State
from vfmalign.client.messages.jobs import CurvePoint, Recipe, Seed
from vfmalign.client.messages.mmd import LayerResult
from vfmalign.client.messages.tasks import Task
from vfmalign.core.domain.bounds import get_range
from vfmalign.core.domain.field_of_view import CutStructure
from vfmalign.core.domain.jobs import MetricSpec, Network
from vfmalign.core.domain.modality_map import ModalityMap
from vfmalign.core.domain.record import Id, OptionalSha256
from vfmalign.v1 import alignment_pb2

VerdictLabel = Literal["gain", "equivalent", "harm", "inconclusive", "insufficient_data", "insufficient_training"]

_SPEC = alignment_pb2.CheckSpec
DEFAULT_PERMUTATIONS = 1_000
DEFAULT_BOOTSTRAP_RESAMPLES = 2_000
DEFAULT_INTERVAL_LEVEL = 0.95


def _zero_means(default: float) -> BeforeValidator:
    """Replaces 0, which protobuf sends for an unset number, by the default that the API documents."""

    def replace(value: Any) -> Any:
        return default if value == 0 else value

    return BeforeValidator(replace)


Permutations = Annotated[int, _zero_means(DEFAULT_PERMUTATIONS), get_range(_SPEC, "permutations")]
BootstrapResamples = Annotated[int, _zero_means(DEFAULT_BOOTSTRAP_RESAMPLES), get_range(_SPEC, "bootstrap_resamples")]
TrainingSeeds = Annotated[int, _zero_means(1), get_range(_SPEC, "seeds")]
IntervalLevel = Annotated[float, _zero_means(DEFAULT_INTERVAL_LEVEL), get_range(_SPEC, "interval_level")]


class CheckSpec(ApiMessage):
    """A requested check; also stored as the check's request. Numbers that were 0 have their defaults."""

    PROTO: ClassVar[type[Message]] = alignment_pb2.CheckSpec

    model_id: Id
    model_sha256: OptionalSha256 = ""
    dataset_id: Id
    dataset_digest: OptionalSha256 = ""
    task: Task
    layers: tuple[str, ...] = ()
    recipe: Recipe = Recipe()
    scratch_recipe: Recipe | None = None
    specialised_recipe: Recipe | None = None
    seed: Seed = 0
    permutations: Permutations = DEFAULT_PERMUTATIONS
    bootstrap_resamples: BootstrapResamples = DEFAULT_BOOTSTRAP_RESAMPLES
    interval_level: IntervalLevel = DEFAULT_INTERVAL_LEVEL
    seeds: TrainingSeeds = 1
    smallest_difference: float = Field(default=0.0, ge=0.0, le=1_000.0, allow_inf_nan=False)
    modality_map: ModalityMap = Field(default_factory=dict)
    shuffled_labels: bool = Field(default=False, exclude_if=lambda shuffled: not shuffled)
    allow_cut_organs: bool = Field(default=False, exclude_if=lambda allowed: not allowed)


class CheckStage(ApiMessage):
    """One stage of a check."""

    PROTO: ClassVar[type[Message]] = alignment_pb2.CheckStage

    name: str
    attempts: int = 0
    start_time: datetime | None = None
    end_time: datetime | None = None
    seconds: float = 0.0
    progress: Progress | None = None


class LayerShift(ApiMessage):
    """How far the features of one layer moved."""

    PROTO: ClassVar[type[Message]] = alignment_pb2.LayerShift

    mmd: LayerResult
    shift_ratio: Estimate = Estimate()
    paired_similarity: Estimate = Estimate()
    saturated: bool = False


class VarianceComponents(ApiMessage):
    """Variance components of a network's score over crossed seeds and patients, in the metric's unit squared.

    Attributes:
        set_to_zero: components whose estimate was negative: `seed`, `patient`.
    """

    PROTO: ClassVar[type[Message]] = alignment_pb2.VarianceComponents

    seed: float = 0.0
    patient: float = 0.0
    residual: float = 0.0
    set_to_zero: tuple[str, ...] = ()


class GainVariance(ApiMessage):
    """Variance of a difference of scores over crossed seeds and patients.

    Attributes:
        standard_error: of the difference, in the metric's unit.
        degrees_of_freedom: Satterthwaite's.
        seeds: number of seeds of each network.
    """

    PROTO: ClassVar[type[Message]] = alignment_pb2.GainVariance

    network: VarianceComponents = VarianceComponents()
    baseline: VarianceComponents = VarianceComponents()
    difference: VarianceComponents = VarianceComponents()
    standard_error: float = 0.0
    degrees_of_freedom: float = 0.0
    seeds: int = 0


class Gain(ApiMessage):
    """Gain over one baseline.

    Attributes:
        relative_percent: relative performance gain (RPG) in per cent.
        absolute: difference s · (score − baseline) in the metric's unit; above 0 is better in either direction of the
            metric.
        score: the network's score over the paired cases, in the metric's unit; None where it is undefined.
        baseline: the baseline's score over the paired cases, in the metric's unit; None where it is undefined.
        cases: number of paired cases.
        groups: number of their patients.
        cases_left_out: number of cases where the metric is undefined for either network.
        equivalence_interval: interval of `absolute` at the level 2·L − 1, where L is the level of its own interval;
            degenerate where too few patients have different scores to show equivalence.
        variance: over seeds and patients; None with one seed and where there is no interval.
        smaller_class: number of patients of the smaller class, for metrics of two classes; 0 for others.
    """

    PROTO: ClassVar[type[Message]] = alignment_pb2.Gain

    relative_percent: Estimate = Estimate()
    absolute: Estimate = Estimate()
    score: float | None = None
    baseline: float | None = None
    cases: int = 0
    groups: int = 0
    cases_left_out: int = 0
    equivalence_interval: Interval | None = None
    variance: GainVariance | None = None
    smaller_class: int = 0


class Steps(ApiMessage):
    """Optimiser steps until an event.

    Attributes:
        value: number of steps; all steps of the training where censored, None where absent.
        censored: True where the event did not happen within the training, so that the true number exceeds `value`.
        absent_reason: one sentence that explains why there is no value.
    """

    PROTO: ClassVar[type[Message]] = alignment_pb2.Steps

    value: int | None = None
    censored: bool = False
    absent_reason: str = ""


class Convergence(ApiMessage):
    """How fast the validation score of one network converged.

    Attributes:
        steps_to_95: first validation at which the fitted curve is at 95 % of its own rise; absent if the rise is within
            noise.
        steps_to_baseline: first validation at which the fitted curve is as good as the best point of the specialised
            network's; censored at `steps` if there is none.
        steps: optimiser steps in all.
        best: best validation score, in the metric's unit.
        start: validation score before training, in the metric's unit.
        best_step: first step at which the best score was reached.
        noise: root mean square of the curve's decreases between validations, in the metric's unit: the SD of the noise
            if it is independent, less if it is autocorrelated; None below 5 validations.
    """

    PROTO: ClassVar[type[Message]] = alignment_pb2.Convergence

    steps_to_95: Steps = Steps()
    steps_to_baseline: Steps = Steps()
    steps: int
    best: float
    start: float
    best_step: int
    noise: float | None = None


class Curve(ApiMessage):
    """Learning curve of one network."""

    PROTO: ClassVar[type[Message]] = alignment_pb2.Curve

    network: Network
    points: tuple[CurvePoint, ...] = ()
    selected_step: int = 0


class Probe(ApiMessage):
    """Shift and validation score at one step of the pretrained network's training.

    Attributes:
        shift: MMD² of the primary layer against the features before, computed like the check's main number.
        validation_score: the task's main metric on `val` at that step.
    """

    PROTO: ClassVar[type[Message]] = alignment_pb2.Probe

    step: int
    shift: Estimate = Estimate()
    validation_score: float


class CheckMeasure(ApiMessage):
    """A measure of the primary layer beside MMD²."""

    PROTO: ClassVar[type[Message]] = alignment_pb2.CheckMeasure

    name: str
    value: Estimate = Estimate()
    meaning: str = ""


class SeedResult(ApiMessage):
    """Results of the trainings with one seed, of a check with several; intervals cover patients."""

    PROTO: ClassVar[type[Message]] = alignment_pb2.SeedResult

    seed: int
    shift: Estimate = Estimate()
    rpg_specialised: Gain
    rpg_scratch: Gain
    convergence: Convergence
    curves: tuple[Curve, ...] = ()
    weight_change: float = 0.0
    job_ids: tuple[str, ...] = ()


class SeedSummary(ApiMessage):
    """Mean and standard deviation over the seeds; the mean's interval covers patients and training."""

    PROTO: ClassVar[type[Message]] = alignment_pb2.SeedSummary

    mean: Estimate = Estimate()
    standard_deviation: float | None = None


class LayerSummary(ApiMessage):
    """MMD² of one layer over the seeds."""

    PROTO: ClassVar[type[Message]] = alignment_pb2.LayerSummary

    layer: str
    raw: SeedSummary = SeedSummary()
    standardised: SeedSummary | None = None


class StepsSummary(ApiMessage):
    """Optimiser steps over the seeds.

    Attributes:
        mean: None where a seed has no steps.
        standard_deviation: None where a seed is censored, or the mean is None.
        censored_seeds: seeds without the event; where there are any, the true mean exceeds `mean`.
        absent_reason: one sentence that explains why there is no mean.
    """

    PROTO: ClassVar[type[Message]] = alignment_pb2.StepsSummary

    mean: float | None = None
    standard_deviation: float | None = None
    censored_seeds: tuple[int, ...] = ()
    absent_reason: str = ""


class SeedVariation(ApiMessage):
    """How results vary with the seed.

    Attributes:
        specialised_deviation, scratch_deviation: standard deviation over the seeds of the differences of the scores, in
            the metric's unit; None where a seed has no difference.
    """

    PROTO: ClassVar[type[Message]] = alignment_pb2.SeedVariation

    layers: tuple[LayerSummary, ...] = ()
    steps_to_95: StepsSummary = StepsSummary()
    steps_to_baseline: StepsSummary = StepsSummary()
    specialised_deviation: float | None = None
    scratch_deviation: float | None = None


class CheckResult(ApiMessage):
    """Outcome of a check."""

    PROTO: ClassVar[type[Message]] = alignment_pb2.CheckResult

    verdict: VerdictLabel
    verdict_reason: str = ""
    shifts: tuple[LayerShift, ...] = ()
    primary_layer: str
    rpg_specialised: Gain
    rpg_scratch: Gain
    metric: MetricSpec
    convergence: Convergence
    curves: tuple[Curve, ...] = ()
    weight_change: float = 0.0
    test_groups: int = 0
    held_out: bool = False
    cautions: tuple[str, ...] = ()
    report_json: ObjectRef
    report_html: ObjectRef
    software: tuple[SoftwareVersion, ...] = ()
    gain_naive_baseline: Gain
    naive_baseline: str = ""
    naive_baseline_not_beaten: bool = False
    probes: tuple[Probe, ...] = ()
    measures: tuple[CheckMeasure, ...] = ()
    interval_scope: str = ""
    seeds: tuple[SeedResult, ...] = ()
    seed_variation: SeedVariation | None = None
    cut_structures: tuple[CutStructure, ...] = ()


class Check(ApiMessage):
    """A check with its current state."""

    PROTO: ClassVar[type[Message]] = alignment_pb2.Check

    check_id: str
    spec: CheckSpec
    state: State
    progress: Progress = Progress()
    create_time: datetime
    end_time: datetime | None = None
    stages: tuple[CheckStage, ...] = ()
    job_ids: tuple[str, ...] = ()
    failure: Failure | None = None
    result: CheckResult | None = None
