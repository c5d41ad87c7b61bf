"""Records of `alignment.proto`, by `make proto`; do not edit."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from google.protobuf.message import Message
from pydantic import Field

from vfmalign.client.messages.base import UNLESS_ZERO, ApiMessage, Time, unset_means
from vfmalign.client.messages.generated.common import Deletion, Estimate, Interval, ObjectRef, Progress, SoftwareVersion
from vfmalign.client.messages.generated.finetuning import CurvePoint, Failure, Recipe
from vfmalign.client.messages.generated.mmd import LayerResult
from vfmalign.client.messages.methods import CheckSpecMethods
from vfmalign.client.messages.tasks import Task
from vfmalign.core.domain.field_of_view import CutStructure
from vfmalign.core.domain.jobs import MetricSpec, Network
from vfmalign.core.domain.modality_map import ModalityMap
from vfmalign.core.domain.record import Id, OptionalSha256, Sha256
from vfmalign.v1 import alignment_pb2

__all__ = [
    "CheckPlan",
    "CheckSpec",
    "EarlierCheck",
    "PlanResult",
    "CheckStage",
    "LayerShift",
    "VarianceComponents",
    "GainVariance",
    "Gain",
    "Steps",
    "Convergence",
    "Curve",
    "CheckMeasure",
    "SeedResult",
    "SeedSummary",
    "LayerSummary",
    "StepsSummary",
    "SeedVariation",
    "CheckResult",
    "Check",
    "TrainingPlan",
    "DeleteCheckRequest",
    "DeleteCheckResponse",
    "CheckState",
    "VerdictLabel",
    "PlanOutcome",
]
CheckState = Literal["queued", "running", "succeeded", "failed", "cancelled"]
"""State of a check."""
VerdictLabel = Literal["gain", "equivalent", "harm", "inconclusive", "insufficient_data", "insufficient_training"]
"""Answer to one of two questions. A difference of scores is tested first for EQUIVALENT, then for GAIN and HARM. If
none of them applies, the answer is INCONCLUSIVE. `CheckResult.verdict` uses the difference to the specialised network,
`CheckResult.pretraining` the difference to random initial weights. With fewer than 3 training seeds, EQUIVALENT, GAIN
and HARM become INCONCLUSIVE, because nothing is known about other trainings. With fewer than 17 test patients, these
three also become INCONCLUSIVE, because such a small sample too often lacks a whole subgroup of patients.
"""
PlanOutcome = Literal["passed", "warned", "failed"]
"""Outcome of a plan. The names are those of in-toto's predicate for test results."""


class CheckPlan(ApiMessage):
    """Declaration of what a check must show. It belongs to the request of the check, so that it is stored with its
    author and time before the first job. The values that the request states as well must be equal.
    """

    PROTO: ClassVar[type[Message]] = alignment_pb2.CheckPlan

    metric: str
    """Name of the task's primary metric, such as `mean_dice`."""
    smallest_difference: float = Field(gt=0.0, le=1000000000000000.0, allow_inf_nan=False)
    """`CheckSpec.smallest_difference`, in the metric's unit."""
    seeds: int = Field(ge=1, le=10)
    """`CheckSpec.seeds`."""
    model_sha256: Sha256
    """`CheckSpec.model_sha256`."""
    dataset_digest: Sha256
    """`CheckSpec.dataset_digest`."""
    gate: tuple[str, ...] = ()
    """Conditions of the gate, such as `difference_specialised.lower>=-0.01`. The gate needs a condition or accepted
    answers.
    """
    require: tuple[str, ...] = ()
    """Accepted answers to the question of `CheckResult.verdict`, such as `gain`; empty accepts any."""
    require_pretraining: tuple[str, ...] = ()
    """Accepted answers to the question of `CheckResult.pretraining`; empty accepts any."""


class CheckSpec(CheckSpecMethods):
    """Specification of a check."""

    PROTO: ClassVar[type[Message]] = alignment_pb2.CheckSpec

    model_id: Id
    """Pretrained model id."""
    model_sha256: OptionalSha256 = ""
    """Expected digest of its weights, hex; empty accepts the stored weights and pins them."""
    dataset_id: Id
    """Dataset id."""
    dataset_digest: OptionalSha256 = ""
    """Expected digest of the dataset, hex; empty accepts the stored dataset and pins it."""
    task: Task
    """Task."""
    layers: tuple[str, ...] = ()
    """Layers to compare; empty means every layer on the model's card. All of them receive gradients from a head."""
    recipe: Recipe = Recipe()
    """How the pretrained network and its twin from random weights are trained. If no rate, decay or warm-up is set and
    the preset has a separate recipe for each, both networks are trained by both recipes with the first seed, and the
    check uses the recipe with the higher mean of the two best scores on `val`.
    """
    scratch_recipe: Recipe | None = None
    """How the twin from random weights is trained, if not by `recipe`. The difference between the two networks may then
    be due to the recipes, and the report says so. Absent means the same recipe.
    """
    specialised_recipe: Recipe | None = None
    """How the specialised network is trained; absent means its own preset with the same budget."""
    seed: int = Field(default=0, ge=0, le=9223372036854775807)
    """Seed of all random number generators; the trainings' seeds are `seed`, `seed` + 1, …"""
    permutations: Annotated[int, unset_means(1000)] = Field(default=1000, ge=1, le=100000)
    """Permutations of the tests."""
    bootstrap_resamples: Annotated[int, unset_means(2000)] = Field(default=2000, ge=100, le=100000)
    """Bootstrap resamples for the intervals of AUROC and balanced accuracy gains with one training seed. Other
    intervals need none.
    """
    interval_level: Annotated[float, unset_means(0.95)] = Field(default=0.95, gt=0.0, lt=1.0, allow_inf_nan=False)
    """Coverage L of intervals. The verdict's equivalence interval has the level 2·L − 1; if L is 0.5 or less, there is
    none, and no verdict is EQUIVALENT.
    """
    seeds: Annotated[int, unset_means(3)] = Field(default=3, ge=1, le=10)
    """Times each network is trained, with the seeds `seed` to `seed` + `seeds` − 1, at most 2^63 − 1. With fewer than
    3, no verdict is GAIN, EQUIVALENT or HARM. Random weights, permutations and resamples are drawn with `seed`.
    """
    smallest_difference: float = Field(default=0.0, ge=0.0, le=1000000000000000.0, allow_inf_nan=False)
    """Smallest relevant difference of the task's primary metric, in the metric's unit: smaller differences do not
    matter. 0 means the metric's own (`Metric.smallest_difference`).
    """
    modality_map: ModalityMap = Field(default_factory=dict)
    """Maps modalities of the dataset to inputs of the model, such as `t1w` to `input`. Inputs that are not named take
    the modality of the same name. No input occurs twice.
    """
    shuffled_labels: bool = False
    """Control: fine-tune the pretrained network on targets that are permuted between the training cases, and between
    the validation cases. The baselines keep their targets. This measures the shift of a fine-tuning that learns nothing
    about the task.
    """
    allow_cut_organs: bool = False
    """Accept cases with less than 90 % of one of the task's structures in the model's field of view. False, the
    default, lets the trainings of a dataset with such a case fail with the reason `CUT_ORGANS`. The option does not
    change scores.
    """
    random_seeds: int = Field(default=0, ge=0, le=20)
    """Number of trainings of the network from random weights, at least `seeds`. More trainings make the answer on
    pretraining more precise. 0 means `seeds`.
    """
    random_weights: bool = False
    """Control: start from random weights instead of the model's, drawn once for all seeds, and treat them as a
    pretrained model. `CheckResult.pretraining` must then not be GAIN.
    """
    recipe_seed: int | None = Field(default=None, ge=0, le=9223372036854775807)
    """Seed of the trainings that choose between a preset's two recipes; unset means `seed`. The checks of an experiment
    share this seed, and therefore the recipe and the trainings that chose it.
    """
    plan: CheckPlan | None = None
    """Declaration of what the check must show; absent for none. The service signs the result of a check with a plan. If
    it has no key for that, CreateCheck fails with FAILED_PRECONDITION and the reason NO_SIGNING_KEY.
    """
    frozen: bool = False
    """Train only the head of the pretrained network: the weights and buffers of its encoder do not change. The features
    then do not move, so there is no shift (see `CheckResult.shifts`). The network from random weights is trained as a
    whole. It is also trained with a frozen encoder (`CheckResult.gain_frozen_random`).
    """
    train_cases: Annotated[int, UNLESS_ZERO] = Field(default=0, ge=2, le=100000)
    """Number of training cases, as experiments set it (`ExperimentSpec.train_cases`); 0 means all cases of `train`.
    Each training uses a subset that its seed draws, equal for all networks and models. The subset of a smaller number
    is part of the subset of a larger number. The cases of a patient stay together, so there may be more cases than the
    number. Cases are drawn in proportion to their classes, with at least one case of each class. `val`, `test` and the
    number of optimiser steps do not change. The trainings that choose between two recipes use all cases. CreateCheck
    fails with INVALID_ARGUMENT if `train` has fewer cases or a class has no case.
    """
    require_licence: str = ""
    """Pattern that the SPDX id of the model's licence must match, as in a shell: `*`, `?` and `[…]`. CreateCheck
    refuses a model with another licence or without one. Empty accepts every model.
    """


class EarlierCheck(ApiMessage):
    """A check of the same model digest, dataset id and task that was created before a check with a plan. It may have
    been deleted since.
    """

    PROTO: ClassVar[type[Message]] = alignment_pb2.EarlierCheck

    check_id: str
    """Id."""
    create_time: Time
    """When it was created."""


class PlanResult(ApiMessage):
    """A check's plan, evaluated when the report was written."""

    PROTO: ClassVar[type[Message]] = alignment_pb2.PlanResult

    outcome: PlanOutcome
    """Outcome."""
    plan_sha256: str
    """SHA-256 of the plan as JSON with sorted keys and no spaces, hex."""
    declare_time: Time
    """When the plan was declared."""
    declared_by: str = ""
    """Who declared it: issuer and subject of the caller's token, separated by `#`."""
    passed: tuple[str, ...] = ()
    """Parts of the gate that passed, such as `verdict=gain|equivalent` and `mmd2.upper<=0.2`."""
    failed: tuple[str, ...] = ()
    """Parts of the gate that failed, or cannot be decided."""
    earlier_checks: tuple[EarlierCheck, ...] = ()
    """Earlier checks, oldest first."""
    statement: ObjectRef | None = None
    """`checks/<id>/statement.dsse`: the signed statement."""


class CheckStage(ApiMessage):
    """One stage of a check, with its number of attempts."""

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
    """Current activity; absent if it is not running."""


class LayerShift(ApiMessage):
    """Shift of the features of one layer."""

    PROTO: ClassVar[type[Message]] = alignment_pb2.LayerShift

    mmd: LayerResult
    """MMD² of before and after."""
    shift_ratio: Estimate = Estimate()
    """MMD²(before, after) / MMD²(before, the same architecture re-initialised), on standardised features; unitless."""
    paired_similarity: Estimate = Estimate()
    """Mean over the test cases of k(x_i, y_i), the Gaussian kernel between the same case before and after, on the
    features that the p-value refers to (standardised ones if there is a reference); unitless: 1 if nothing moved, 0 if
    the kernel is saturated. Absent with the reason.
    """
    saturated: bool = False
    """True if `paired_similarity` is below 0.05: MMD² is saturated and no longer grows with distance."""


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
    """Components with a negative estimate, which is set to 0: `seed`, `patient`."""


class GainVariance(ApiMessage):
    """Variance of a difference of scores for S seeds and n patients: σ²_patient / n, plus σ²_seed / S + σ²_residual /
    (S·n) of each network. The variance of the difference to random initial weights also contains `another_draw`.
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
    """Variance between the trainings from random weights. The standard error includes it once more, because the
    question is whether the model is better than another draw of random weights. 0 for other baselines.
    """


class Gain(ApiMessage):
    """Gain over one baseline."""

    PROTO: ClassVar[type[Message]] = alignment_pb2.Gain

    relative_percent: Estimate = Estimate()
    """Relative performance gain, 100 · s · (score − baseline) / |baseline| in per cent, s = −1 if lower is better.
    Absent if |baseline| is below the metric's floor; without interval if the baseline's own interval extends below the
    floor.
    """
    absolute: Estimate = Estimate()
    """Difference s · (score − baseline), in the metric's unit; above 0 is better. It has no interval with fewer than 8
    patients (for AUROC and balanced accuracy, 10 patients of each class), or if the difference is the same for all
    patients.
    """
    score: float | None = None
    """Test score of the fine-tuned model over the paired cases, in the metric's unit; absent if undefined."""
    baseline: float | None = None
    """Test score of the baseline over the paired cases, in the metric's unit; absent if undefined."""
    cases: int = 0
    """Test cases on which the metric is defined for both networks."""
    groups: int = 0
    """Patients of these cases."""
    cases_left_out: int = 0
    """Test cases on which the metric is undefined for either network."""
    equivalence_interval: Interval | None = None
    """Equivalence interval of `absolute`, in the metric's unit, at the level 2·L − 1, where L is the level of
    `absolute.interval` (0.90 for 0.95). It corresponds to two one-sided tests, each at the significance level of the
    two-sided test. For AUROC and balanced accuracy, it includes two added patients of each class. For other metrics, it
    is degenerate if the scores of fewer than 8 patients differ, or if the difference is the same for all. Absent if
    there are too few patients, or if L is 0.5 or less.
    """
    variance: GainVariance | None = None
    """Variance over seeds and patients, from which the intervals are computed; absent with one seed or without an
    interval.
    """
    smaller_class: int = 0
    """Patients of the smaller class, for AUROC and balanced accuracy; 0 for other metrics."""


class Steps(ApiMessage):
    """Optimiser steps until an event."""

    PROTO: ClassVar[type[Message]] = alignment_pb2.Steps

    value: int | None = None
    """Number of steps; if censored, all steps of the training. Absent with the reason."""
    censored: bool = False
    """True if the event did not happen within the training, so that the true number exceeds `value`."""
    absent_reason: str = ""
    """Why there is no value, one sentence; else empty."""


class Convergence(ApiMessage):
    """How fast validation converged."""

    PROTO: ClassVar[type[Message]] = alignment_pb2.Convergence

    steps_to_95: Steps = Steps()
    """First validation at which the curve fitted to the scores reaches 95 % of its own rise; absent if the rise is
    within noise.
    """
    steps_to_baseline: Steps = Steps()
    """First validation at which the fitted curve is as good as the best point of the specialised network's fitted
    curve; censored at `steps` if there is none.
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
    """Root mean square of the curve's decreases between validations, in the metric's unit; absent with fewer than 5
    validations. It is the standard deviation of the noise if the noise is independent, and less if it is
    autocorrelated.
    """


class Curve(ApiMessage):
    """The learning curve of one network."""

    PROTO: ClassVar[type[Message]] = alignment_pb2.Curve

    network: Network
    """Network."""
    points: tuple[CurvePoint, ...] = ()
    """Validation at step 0 and after every epoch."""
    selected_step: int = 0
    """Step of the checkpoint with the best validation, which is scored."""


class CheckMeasure(ApiMessage):
    """A measure of the primary layer other than MMD²."""

    PROTO: ClassVar[type[Message]] = alignment_pb2.CheckMeasure

    name: str
    """`cka`, `frechet` or `energy` for the features before and after; `logme` for the features before and the classes
    of `train`.
    """
    value: Estimate = Estimate()
    """The value, which has no interval; absent with the reason."""
    meaning: str = ""
    """Meaning and direction of the value."""


class SeedResult(ApiMessage):
    """Results of the trainings with one seed, in a check with several seeds."""

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
    """Summary of a number over all training seeds."""

    PROTO: ClassVar[type[Message]] = alignment_pb2.SeedSummary

    mean: Estimate = Estimate()
    """Mean over the seeds, with an interval that covers patients and training; absent with the reason."""
    standard_deviation: float | None = None
    """Standard deviation over the seeds; absent if the mean is absent."""


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
    """Standard deviation over the seeds; absent if the mean is absent or censored."""
    censored_seeds: tuple[int, ...] = ()
    """Seeds in which the event did not happen within the training. If there are any, the true mean exceeds `mean`."""
    absent_reason: str = ""
    """Why there is no mean, one sentence; else empty."""


class SeedVariation(ApiMessage):
    """Variation of the results between training seeds."""

    PROTO: ClassVar[type[Message]] = alignment_pb2.SeedVariation

    layers: tuple[LayerSummary, ...] = ()
    """MMD² per layer, the primary layer first."""
    steps_to_95: StepsSummary = StepsSummary()
    """Steps to 95 % of the pretrained network's own range."""
    steps_to_baseline: StepsSummary = StepsSummary()
    """Steps of the pretrained network to the specialised network's best."""
    specialised_deviation: float | None = None
    """Standard deviation over the seeds of the difference to the specialised network, in the metric's unit; absent if a
    seed has no difference.
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
    """Shift per layer, the primary layer first. With `CheckSpec.frozen`, all numbers are absent with the reason."""
    primary_layer: str
    """Name of the primary layer."""
    rpg_specialised: Gain
    """Gain over the specialised network."""
    rpg_scratch: Gain
    """Gain over the same architecture with random weights."""
    metric: MetricSpec
    """The primary metric: for scores, selection of checkpoints and convergence."""
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
    """Cautions for the reader in sentences, such as an unknown pretraining set."""
    report_json: ObjectRef
    """`checks/<id>/report.json`."""
    report_html: ObjectRef
    """`checks/<id>/report.html`, self-contained."""
    software: tuple[SoftwareVersion, ...] = ()
    """Software versions that computed the numbers."""
    gain_naive_baseline: Gain
    """Gain over the task's naive baseline, which needs no network."""
    naive_baseline: str = ""
    """Prediction of the naive baseline, such as the input itself or a closed form."""
    naive_baseline_not_beaten: bool = False
    """True if the fine-tuned model's test score in `metric` is not better than the naive baseline's."""
    measures: tuple[CheckMeasure, ...] = ()
    """Similarity measures of the primary layer other than MMD²."""
    interval_scope: str = ""
    """Scope of the gains' intervals: `covers patients, not training` with one seed, else `covers patients and
    training`.
    """
    seeds: tuple[SeedResult, ...] = ()
    """Results of every training seed, in order; empty with one seed. `rpg_specialised`, `rpg_scratch` and
    `gain_naive_baseline` are means over the seeds; `shifts`, `convergence`, `curves`, `weight_change` and `measures`
    belong to the first seed.
    """
    seed_variation: SeedVariation | None = None
    """How shift and convergence vary with the seed; absent with one seed."""
    cut_structures: tuple[CutStructure, ...] = ()
    """Structures with less than 98 % inside the model's field of view, the smallest share first. At most 1,000;
    `report_json` has all. Empty if nothing is cut.
    """
    pretraining: VerdictLabel | None = None
    """Does pretraining help: is the fine-tuned model better than the same architecture from random initial weights?
    Unspecified in results of versions that did not assess it.
    """
    pretraining_reason: str = ""
    """Reason for `pretraining`, as in `verdict_reason`; empty if `pretraining` is unspecified."""
    summary: str = ""
    """Both answers in one sentence, with the differences and their intervals."""
    plan: PlanResult | None = None
    """Outcome of the plan; absent if the check has none."""
    gain_frozen_random: Gain | None = None
    """With `CheckSpec.frozen`: gain over the same architecture with random weights and a frozen encoder; otherwise
    absent.
    """


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
    """Current activity: phase and counts of the longest running stage, and one sentence about all running stages.
    Phases are the stages' names, `queued`, `starting`, `stopping` and `finished`.
    """
    create_time: Time
    """When it was created."""
    end_time: Time | None = None
    """When it ended."""
    stages: tuple[CheckStage, ...] = ()
    """Stages in order."""
    job_ids: tuple[str, ...] = ()
    """Ids of its jobs: first the trials of two recipes, then pretrained, scratch and specialised by seed. With
    `CheckSpec.frozen`, each seed ends with the frozen network from random weights.
    """
    failure: Failure | None = None
    """Set when it failed."""
    result: CheckResult | None = None
    """Set when it succeeded. After the erasure of a patient it is unset, and `progress` states the verdict."""
    created_by: str = ""
    """Who created it, or the experiment that it belongs to: issuer and subject of the token, as `issuer#subject`; empty
    if unknown.
    """
    dataset_digest: str = ""
    """Digest of the dataset, hex; empty until the check has pinned it."""
    model_sha256: str = ""
    """Digest of the pretrained model's weights, hex; empty until the check has pinned it."""


class TrainingPlan(ApiMessage):
    """Number of trainings that a check needs."""

    PROTO: ClassVar[type[Message]] = alignment_pb2.TrainingPlan

    seeds: int = 0
    """Training seeds."""
    trainings: int = 0
    """Total number of trainings."""
    reused: int = 0
    """Trainings that are not run, because another check has trained or will train the same baseline."""


class DeleteCheckRequest(ApiMessage):
    """Request of DeleteCheck."""

    PROTO: ClassVar[type[Message]] = alignment_pb2.DeleteCheckRequest

    check_id: Id
    """Check id."""
    dry_run: bool = False
    """Delete nothing; return what the call would delete."""


class DeleteCheckResponse(ApiMessage):
    """Response of DeleteCheck."""

    PROTO: ClassVar[type[Message]] = alignment_pb2.DeleteCheckResponse

    deletion: Deletion = Deletion()
    """The deleted objects. After an interrupted deletion, those that were left."""
