"""Records of `alignment.proto`, by `make proto`; do not edit."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from google.protobuf.message import Message
from pydantic import Field

from vfmalign.client.messages.base import ApiMessage, Time, unset_means
from vfmalign.client.messages.generated.common import Estimate, Interval, ObjectRef, Progress, SoftwareVersion
from vfmalign.client.messages.generated.finetuning import CurvePoint, Failure, Recipe
from vfmalign.client.messages.generated.mmd import LayerResult
from vfmalign.client.messages.methods import CheckSpecMethods
from vfmalign.client.messages.tasks import Task
from vfmalign.core.domain.field_of_view import CutStructure
from vfmalign.core.domain.jobs import MetricSpec, Network
from vfmalign.core.domain.modality_map import ModalityMap
from vfmalign.core.domain.record import Id, OptionalSha256
from vfmalign.v1 import alignment_pb2

__all__ = [
    "CheckSpec",
    "CheckStage",
    "LayerShift",
    "VarianceComponents",
    "GainVariance",
    "Gain",
    "Steps",
    "Convergence",
    "Curve",
    "Probe",
    "CheckMeasure",
    "SeedResult",
    "SeedSummary",
    "LayerSummary",
    "StepsSummary",
    "SeedVariation",
    "CheckResult",
    "Check",
    "TrainingPlan",
    "CheckState",
    "VerdictLabel",
]
CheckState = Literal["queued", "running", "succeeded", "failed", "cancelled"]
"""State of a check."""
VerdictLabel = Literal["gain", "equivalent", "harm", "inconclusive", "insufficient_data", "insufficient_training"]
"""Answer to one of two questions, decided on a difference of scores in this order: EQUIVALENT, then GAIN or HARM, else
INCONCLUSIVE. `CheckResult.verdict` is about the difference to the specialised network, `CheckResult.pretraining` about
that to random initial weights. With fewer than 3 training seeds the first three are INCONCLUSIVE, because nothing is
known about other trainings. With fewer than 17 test patients they are as well: a sample that small too often holds
nobody of a subgroup of patients.
"""


class CheckSpec(CheckSpecMethods):
    """Specification of a check."""

    PROTO: ClassVar[type[Message]] = alignment_pb2.CheckSpec

    model_id: Id
    """Pretrained model id."""
    model_sha256: OptionalSha256 = ""
    """Expected digest of its weights, hex; empty accepts the stored one and fixes it."""
    dataset_id: Id
    """Dataset id."""
    dataset_digest: OptionalSha256 = ""
    """Expected digest of the dataset, hex; empty accepts the stored one and fixes it."""
    task: Task
    """Task."""
    layers: tuple[str, ...] = ()
    """Layers to compare; empty means every layer on the model's card, all of which lie on the path of a head's
    gradient.
    """
    recipe: Recipe = Recipe()
    """How the pretrained network and its twin from random weights are trained. Where no rate, decay or warm-up is set
    and the preset has a recipe of its own for each, both networks are trained by both recipes with the first seed, and
    the check uses the recipe with the higher mean of the two best scores on `val`.
    """
    scratch_recipe: Recipe | None = None
    """How the twin from random weights is trained where its recipe differs from `recipe`. The difference between the
    two networks then is one of recipes as well, and the report says so. Absent means the same recipe.
    """
    specialised_recipe: Recipe | None = None
    """How the specialised network is trained; absent means its own preset with the same budget."""
    seed: int = Field(default=0, ge=0, le=9223372036854775807)
    """Seed of all random number generators; the trainings' seeds are `seed`, `seed` + 1, …"""
    permutations: Annotated[int, unset_means(1000)] = Field(default=1000, ge=1, le=100000)
    """Permutations of the tests."""
    bootstrap_resamples: Annotated[int, unset_means(2000)] = Field(default=2000, ge=100, le=100000)
    """Bootstrap resamples of the gains' intervals, of AUROC and balanced accuracy with one training seed; other
    intervals need none.
    """
    interval_level: Annotated[float, unset_means(0.95)] = Field(default=0.95, gt=0.0, lt=1.0, allow_inf_nan=False)
    """Coverage L of intervals. The verdict's equivalence interval has the level 2·L − 1; at L of 0.5 or less there is
    none, and no verdict is EQUIVALENT.
    """
    seeds: Annotated[int, unset_means(3)] = Field(default=3, ge=1, le=10)
    """Times each network is trained, with the seeds `seed` to `seed` + `seeds` − 1, at most 2^63 − 1. With fewer than
    3, no verdict is GAIN, EQUIVALENT or HARM. Random weights, permutations and resamples are drawn with `seed`.
    """
    smallest_difference: float = Field(default=0.0, ge=0.0, le=1000.0, allow_inf_nan=False)
    """Smallest relevant difference of the task's primary metric, in the metric's unit: smaller differences do not
    matter. 0 means the metric's own (`Metric.smallest_difference`).
    """
    modality_map: ModalityMap = Field(default_factory=dict)
    """Which modality of the dataset feeds which input of the model, such as `t1w` to `input`; inputs that are not named
    take the modality of the same name. No input occurs twice.
    """
    shuffled_labels: bool = False
    """A control: fine-tune the pretrained network on targets that are permuted between the training cases, and between
    the validation cases. The baselines keep their targets. The shift is then that of a fine-tuning that learns nothing
    about the task.
    """
    allow_cut_organs: bool = False
    """Use cases of which less than 90 % of one of the task's structures lies in the model's field of view. Without it,
    the trainings of a dataset with such a case fail with the reason `CUT_ORGANS`; false by default. Scores are the same
    with and without it.
    """
    random_seeds: int = Field(default=0, ge=0, le=20)
    """Times the network from random weights is trained, at least `seeds`: with more, the answer on pretraining is more
    precise. 0 means as often as `seeds`.
    """
    random_weights: bool = False
    """A control: in place of the model's weights, begin with random ones, which are drawn once for all seeds, as if
    they were those of a pretrained model. `CheckResult.pretraining` must then not be GAIN.
    """
    recipe_seed: int | None = Field(default=None, ge=0, le=9223372036854775807)
    """Seed of the trainings that choose between a preset's two recipes; unset is `seed`. The checks of an experiment
    have one in common, and with it the recipe and the trainings that chose it.
    """


class CheckStage(ApiMessage):
    """One stage of a check, with the attempts it took."""

    PROTO: ClassVar[type[Message]] = alignment_pb2.CheckStage

    name: str
    """Name, such as `features_before`."""
    attempts: int = 0
    """Number of times it was started."""
    start_time: Time | None = None
    """When it first started; absent if it has not."""
    end_time: Time | None = None
    """When it finished; absent if it has not."""
    seconds: float = 0.0
    """Wall time in seconds from the first start to the end, interruptions included."""
    progress: Progress | None = None
    """Current activity; absent unless it runs."""


class LayerShift(ApiMessage):
    """How far features of one layer moved."""

    PROTO: ClassVar[type[Message]] = alignment_pb2.LayerShift

    mmd: LayerResult
    """MMD² of before and after."""
    shift_ratio: Estimate = Estimate()
    """MMD²(before, after) / MMD²(before, the same architecture re-initialised), on standardised features; unitless."""
    paired_similarity: Estimate = Estimate()
    """Mean over the test cases of k(x_i, y_i), the Gaussian kernel between the same case before and after, on the
    features that the p-value refers to (standardised ones where there is a reference); unitless: 1 where nothing moved,
    0 where the kernel is saturated. Absent with the reason.
    """
    saturated: bool = False
    """True where `paired_similarity` is under 0.05: MMD² is saturated and no longer grows with distance."""


class VarianceComponents(ApiMessage):
    """Variance components of a network's score over crossed training seeds and patients, in the metric's unit squared."""

    PROTO: ClassVar[type[Message]] = alignment_pb2.VarianceComponents

    seed: float = 0.0
    """σ²_seed."""
    patient: float = 0.0
    """σ²_patient."""
    residual: float = 0.0
    """σ²_residual."""
    set_to_zero: tuple[str, ...] = ()
    """Components whose estimate was negative and is set to 0: `seed`, `patient`."""


class GainVariance(ApiMessage):
    """Variance of a difference of scores: σ²_patient / n, and σ²_seed / S + σ²_residual / (S·n) of either network, for
    S seeds and n patients. Over random initial weights, `another_draw` is added.
    """

    PROTO: ClassVar[type[Message]] = alignment_pb2.GainVariance

    network: VarianceComponents = VarianceComponents()
    """Components of the network."""
    baseline: VarianceComponents = VarianceComponents()
    """Components of the baseline."""
    difference: VarianceComponents = VarianceComponents()
    """Components of the difference: seeds and residuals of both networks, and the patients' differences."""
    standard_error: float = 0.0
    """Standard error of the difference, in the metric's unit."""
    degrees_of_freedom: float = 0.0
    """Satterthwaite's degrees of freedom of the interval."""
    seeds: int = 0
    """Seeds of the network."""
    baseline_seeds: int = 0
    """Seeds of the baseline."""
    another_draw: float = 0.0
    """Variance between the trainings from random weights, which the standard error includes once more: the question is
    whether the model is better than another draw of random weights. 0 for other baselines.
    """


class Gain(ApiMessage):
    """Gain over one baseline."""

    PROTO: ClassVar[type[Message]] = alignment_pb2.Gain

    relative_percent: Estimate = Estimate()
    """Relative performance gain, 100 · s · (score − baseline) / |baseline| in per cent, s = −1 where lower is better.
    Absent where |baseline| is below the metric's floor; without interval where the baseline's own interval reaches
    below the floor.
    """
    absolute: Estimate = Estimate()
    """Difference s · (score − baseline), in the metric's unit; above 0 is better. Without interval below 8 patients,
    below 10 patients of either class for AUROC and balanced accuracy, and where the difference is the same for all
    patients.
    """
    score: float | None = None
    """Test score of the fine-tuned model over the paired cases, in the metric's unit; absent where it is undefined."""
    baseline: float | None = None
    """Test score of the baseline over the paired cases, in the metric's unit; absent where it is undefined."""
    cases: int = 0
    """Test cases on which the metric is defined for both networks."""
    groups: int = 0
    """Patients of these cases."""
    cases_left_out: int = 0
    """Test cases on which the metric is undefined for either network."""
    equivalence_interval: Interval | None = None
    """Equivalence interval of `absolute`, in the metric's unit, at the level 2·L − 1 where L is the level of
    `absolute.interval`: 0.90 for 0.95. Two one-sided tests at the level of the two-sided one. That of AUROC and
    balanced accuracy includes two added patients of either class; that of other metrics is degenerate where the scores
    of fewer than 8 patients differ, or the difference is the same for all. Absent for few patients, and where L is 0.5
    or less.
    """
    variance: GainVariance | None = None
    """Variance over seeds and patients that the intervals follow from; absent with one seed and where there is no
    interval.
    """
    smaller_class: int = 0
    """Patients of the smaller class, for AUROC and balanced accuracy; 0 for other metrics."""


class Steps(ApiMessage):
    """Optimiser steps until an event."""

    PROTO: ClassVar[type[Message]] = alignment_pb2.Steps

    value: int | None = None
    """Number of steps; all steps of the training where censored. Absent with the reason."""
    censored: bool = False
    """True where the event did not happen within the training, so that the true number exceeds `value`."""
    absent_reason: str = ""
    """Why there is no value, one sentence; else empty."""


class Convergence(ApiMessage):
    """How fast validation converged."""

    PROTO: ClassVar[type[Message]] = alignment_pb2.Convergence

    steps_to_95: Steps = Steps()
    """First validation at which the curve fitted to the scores is at 95 % of its own rise; absent when the rise is
    within noise.
    """
    steps_to_baseline: Steps = Steps()
    """First validation at which the fitted curve is as good as the best point of the specialised network's fitted
    curve; censored at `steps` where none is.
    """
    steps: int
    """Optimiser steps in all."""
    best: float
    """Best validation score, in the metric's unit."""
    start: float
    """Validation score before training, in the metric's unit."""
    best_step: int
    """First step at which the best score was reached."""
    noise: float | None = None
    """Root mean square of the curve's decreases between validations, in the metric's unit; absent below 5 validations.
    It is the standard deviation of the noise where that is independent, and less where it is autocorrelated.
    """


class Curve(ApiMessage):
    """The learning curve of one network."""

    PROTO: ClassVar[type[Message]] = alignment_pb2.Curve

    network: Network
    """Network."""
    points: tuple[CurvePoint, ...] = ()
    """Validation at step 0 and after every epoch."""
    selected_step: int = 0
    """Step of the best-validation checkpoint, the one that is scored."""


class Probe(ApiMessage):
    """An early probe of the fine-tuning of the pretrained network."""

    PROTO: ClassVar[type[Message]] = alignment_pb2.Probe

    step: int
    """Optimiser step."""
    shift: Estimate = Estimate()
    """MMD² of the primary layer between the features before and those of the encoder after `step`, computed like the
    check's main number: on standardised features of the same test cases, with its interval.
    """
    validation_score: float
    """The metric on `val` after `step`, in the metric's unit."""


class CheckMeasure(ApiMessage):
    """A measure of the primary layer beside MMD²."""

    PROTO: ClassVar[type[Message]] = alignment_pb2.CheckMeasure

    name: str
    """`cka`, `frechet` or `energy`, of the features before and after; `logme`, of those before and the classes of
    `train`.
    """
    value: Estimate = Estimate()
    """The value, which has no interval; absent with the reason."""
    meaning: str = ""
    """Meaning and direction of the value."""


class SeedResult(ApiMessage):
    """Results of the trainings with one seed, of a check with several."""

    PROTO: ClassVar[type[Message]] = alignment_pb2.SeedResult

    seed: int
    """Seed of the trainings."""
    shift: Estimate = Estimate()
    """MMD² of the primary layer, as in the check's main number; its interval covers patients."""
    rpg_specialised: Gain
    """Gain over the specialised network of the same seed; its intervals cover patients."""
    rpg_scratch: Gain
    """Gain over the network from random weights of the same seed; its intervals cover patients."""
    convergence: Convergence
    """Convergence of the pretrained network, and its steps to the best of the specialised network of the same seed."""
    curves: tuple[Curve, ...] = ()
    """Learning curves."""
    weight_change: float = 0.0
    """‖θ − θ0‖ / ‖θ0‖ of the encoder at the selected checkpoint."""
    job_ids: tuple[str, ...] = ()
    """Ids of the jobs: pretrained, scratch, specialised."""


class SeedSummary(ApiMessage):
    """A number that every training seed has."""

    PROTO: ClassVar[type[Message]] = alignment_pb2.SeedSummary

    mean: Estimate = Estimate()
    """Mean over the seeds, with an interval that covers patients and training; absent with the reason."""
    standard_deviation: float | None = None
    """Standard deviation over the seeds; absent where the mean is."""


class LayerSummary(ApiMessage):
    """MMD² of one layer over the training seeds."""

    PROTO: ClassVar[type[Message]] = alignment_pb2.LayerSummary

    layer: str
    """Layer."""
    raw: SeedSummary = SeedSummary()
    """On raw features."""
    standardised: SeedSummary | None = None
    """On standardised features; absent where there are none."""


class StepsSummary(ApiMessage):
    """Optimiser steps over the training seeds."""

    PROTO: ClassVar[type[Message]] = alignment_pb2.StepsSummary

    mean: float | None = None
    """Mean over the seeds; absent with the reason."""
    standard_deviation: float | None = None
    """Standard deviation over the seeds; absent where the mean is, or censored."""
    censored_seeds: tuple[int, ...] = ()
    """Seeds in which the event did not happen within the training; the true mean exceeds `mean` where there are any."""
    absent_reason: str = ""
    """Why there is no mean, one sentence; else empty."""


class SeedVariation(ApiMessage):
    """How results vary with the training seed."""

    PROTO: ClassVar[type[Message]] = alignment_pb2.SeedVariation

    layers: tuple[LayerSummary, ...] = ()
    """MMD² per layer, the primary layer first."""
    steps_to_95: StepsSummary = StepsSummary()
    """Steps to 95 % of the pretrained network's own range."""
    steps_to_baseline: StepsSummary = StepsSummary()
    """Steps of the pretrained network to the specialised network's best."""
    specialised_deviation: float | None = None
    """Standard deviation over the seeds of the difference to the specialised network, in the metric's unit; absent
    where a seed has no difference.
    """
    scratch_deviation: float | None = None
    """The same of the difference to the network from random weights."""


class CheckResult(ApiMessage):
    """The outcome of a check."""

    PROTO: ClassVar[type[Message]] = alignment_pb2.CheckResult

    verdict: VerdictLabel
    """Is the fine-tuned model better than the specialised network?"""
    verdict_reason: str = ""
    """Reason for the verdict, one sentence: both scores, the difference with its interval, and the smallest relevant
    difference.
    """
    shifts: tuple[LayerShift, ...] = ()
    """Shift per layer, the primary layer first."""
    primary_layer: str
    """Name of the primary layer."""
    rpg_specialised: Gain
    """Gain over the specialised network."""
    rpg_scratch: Gain
    """Gain over the same architecture with random weights."""
    metric: MetricSpec
    """The metric that scores, selects and converges."""
    convergence: Convergence
    """Convergence of the pretrained network."""
    curves: tuple[Curve, ...] = ()
    """Learning curves."""
    weight_change: float = 0.0
    """‖θ − θ0‖ / ‖θ0‖ of the encoder at the selected checkpoint."""
    test_groups: int = 0
    """Patients in the test split."""
    held_out: bool = False
    """Whether the test cases were held out."""
    cautions: tuple[str, ...] = ()
    """Sentences the reader must know, such as an unknown pretraining set."""
    report_json: ObjectRef
    """`checks/<id>/report.json`."""
    report_html: ObjectRef
    """`checks/<id>/report.html`, self-contained."""
    software: tuple[SoftwareVersion, ...] = ()
    """Software behind the numbers."""
    gain_naive_baseline: Gain
    """Gain over the task's naive baseline, which needs no network."""
    naive_baseline: str = ""
    """What the naive baseline predicts, such as the input itself or a closed form."""
    naive_baseline_not_beaten: bool = False
    """True where the fine-tuned model's test score in `metric` is no better than the naive baseline's."""
    probes: tuple[Probe, ...] = ()
    """Early probes of the pretrained network's training (`Recipe.probe_steps`), in order of steps."""
    measures: tuple[CheckMeasure, ...] = ()
    """Similarity measures of the primary layer beside MMD²."""
    interval_scope: str = ""
    """What the intervals of the gains cover: `covers patients, not training` with one seed, else `covers patients and
    training`.
    """
    seeds: tuple[SeedResult, ...] = ()
    """Results of every training seed, in order; empty with one seed. `rpg_specialised`, `rpg_scratch` and
    `gain_naive_baseline` are means over the seeds; `shifts`, `convergence`, `curves`, `weight_change`, `probes` and
    `measures` are those of the first seed.
    """
    seed_variation: SeedVariation | None = None
    """How shift and convergence vary with the seed; absent with one seed."""
    cut_structures: tuple[CutStructure, ...] = ()
    """Structures of which less than 98 % lies in the model's field of view, the smallest share first; at most 1,000,
    `report_json` has all. Empty where nothing is cut.
    """
    pretraining: VerdictLabel | None = None
    """Does pretraining help: is the fine-tuned model better than the same architecture from random initial weights?
    Unspecified in results of versions that did not assess it.
    """
    pretraining_reason: str = ""
    """Reason for `pretraining`, as `verdict_reason`; empty where that is unspecified."""
    summary: str = ""
    """Both answers in one sentence, with the differences and their intervals."""


class Check(ApiMessage):
    """A check."""

    PROTO: ClassVar[type[Message]] = alignment_pb2.Check

    check_id: str
    """Id."""
    spec: CheckSpec
    """Its specification."""
    state: CheckState
    """State."""
    progress: Progress = Progress()
    """Current activity: phase and counts of the longest running stage, and one sentence over all running stages. Phases
    are the stages' names, `queued`, `starting`, `stopping` and `finished`.
    """
    create_time: Time
    """When it was created."""
    end_time: Time | None = None
    """When it ended."""
    stages: tuple[CheckStage, ...] = ()
    """Stages in order."""
    job_ids: tuple[str, ...] = ()
    """Ids of its jobs: those of the trials of two recipes, then pretrained, scratch, specialised by seed."""
    failure: Failure | None = None
    """Set when it failed."""
    result: CheckResult | None = None
    """Set when it succeeded."""


class TrainingPlan(ApiMessage):
    """How many trainings a check needs."""

    PROTO: ClassVar[type[Message]] = alignment_pb2.TrainingPlan

    seeds: int = 0
    """Training seeds."""
    trainings: int = 0
    """Trainings in all."""
    reused: int = 0
    """Trainings that are not run, because another check has trained the same baseline or is about to."""
