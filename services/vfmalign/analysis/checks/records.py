"""Records of a check's measurements: `checks/<id>/mmd.json` and `checks/<id>/report.json`.

`CheckAnalysis` depends only on inputs and seeds. Repeated runs of a check therefore give equal results, even if a
process was killed in between. `RunRecord` contains the facts that differ between runs.
"""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from vfmalign.analysis.checks.verdict import Verdict
from vfmalign.client.messages.checks import Convergence, Curve, Gain, PlanResult, SeedVariation
from vfmalign.client.messages.common import Estimate
from vfmalign.client.messages.jobs import CurvePoint
from vfmalign.client.messages.mmd import ComputeResponse
from vfmalign.client.recipes import TrainingBudget
from vfmalign.core.domain.field_of_view import CutStructure
from vfmalign.core.domain.jobs import MetricSpec, Network
from vfmalign.core.domain.record import Record
from vfmalign.core.domain.stored_objects import StoredFigure

MEASURE_TITLES = {
    "cka": "CKA",
    "frechet": "Fréchet distance",
    "energy": "energy distance",
    "logme": "LogME",
    "h_score": "H-score",
}
"""Titles of the measures other than MMD²."""
MEASURE_MEANINGS: dict[str, str] = {
    "cka": "similarity of the features before and after: 1 if they are equal up to rotation, a common scale and "
    "translation; lower the more the relations between cases changed",
    "frechet": "squared distance between means and covariances on the main axes of the features before: 0 if both are "
    "equal; larger with more distance, and biased upwards with few cases",
    "energy": "distance between the features before and after: larger with more distance; about 0 or below if nothing "
    "moved",
    "logme": "log evidence per training case of a linear model that predicts the classes from the features before: "
    "higher is better; unrelated to shift",
    "h_score": "share of the variation of the features before that lies between the classes of the training cases: "
    "higher is better; unrelated to shift",
}
"""Meanings of the measures other than MMD², in display order."""


class FeatureShift(Record):
    """`checks/<id>/mmd.json`: how far fine-tuning and random weights shift the features.

    Attributes:
        after: U-statistic of the shift between the features before and after fine-tuning.
        biased: V-statistic of the same shift.
        reinitialised: shift between the features before fine-tuning and the features of the re-initialised
            architecture.
    """

    before_id: str
    after_id: str
    reinitialised_id: str
    reference_id: str
    after: ComputeResponse
    biased: ComputeResponse
    reinitialised: ComputeResponse
    device: str


class NetworkResult(Record):
    """Results of one network of the check.

    Attributes:
        encoder_rate: factor by which the encoder's learning rate is multiplied; None for networks without an encoder.
        test_means: mean of each metric over the test cases that have a value; None if no test case has a value.
        weight_change: ‖θ−θ0‖/‖θ0‖ of the encoder; None for the specialised network.
    """

    network: Network
    job_id: str
    architecture: str
    parameters: int
    learning_rate: float
    encoder_rate: float | None
    curve: tuple[CurvePoint, ...]
    convergence: Convergence
    selected_epoch: int
    selected_step: int
    test_means: dict[str, float | None]
    weight_change: float | None

    def to_curve(self) -> Curve:
        """Returns the learning curve as a message of the API."""
        return Curve(network=self.network, points=self.curve, selected_step=self.selected_step)


class NaiveBaseline(Record):
    """Test scores of a prediction that uses no network, for example a prediction of the most frequent class.

    Attributes:
        prediction: description of the prediction.
        test_means: mean of each metric of this prediction over the test cases.
        gain: gain of the fine-tuned model over this prediction.
    """

    prediction: str
    test_means: dict[str, float | None]
    gain: Gain

    @property
    def not_beaten(self) -> bool:
        """Whether the fine-tuned model is no better than the naive baseline.

        False if the score of the model or of the baseline is absent.
        """
        return self.gain.absolute.value is not None and self.gain.absolute.value <= 0


class SeedAnalysis(Record):
    """Results of one training seed, in a check with several training seeds.

    Attributes:
        seed: seed of the trainings.
        networks: the three networks.
        rpg_specialised, rpg_scratch: gains; their intervals cover only the variation between patients.
        shift, shift_ratio, paired_similarity: see `CheckAnalysis`.
    """

    seed: int
    networks: tuple[NetworkResult, ...]
    rpg_specialised: Gain
    rpg_scratch: Gain
    shift: ComputeResponse
    shift_ratio: dict[str, Estimate]
    paired_similarity: dict[str, Estimate]

    def network(self, name: Network) -> NetworkResult:
        """Returns the result of one network."""
        return next(result for result in self.networks if result.network == name)


class CheckAnalysis(Record):
    """Analysis of a check. Checks with equal inputs and seeds have equal analyses.

    Attributes:
        held_out: False if the same case is in several splits. If False, all numbers are only descriptive.
        phantom: True if the cases are generated and do not come from patients.
        leakage_known: False if the model card does not list the pretraining data.
        test_groups: number of patients in the test split.
        pretraining: whether pretraining helps; None in results of older versions, which did not assess this.
        gain_frozen_random: gain over the same architecture with random weights and a frozen encoder, for a check that
            freezes the encoder; otherwise None.
        reference_groups: number of training patients whose features determine the scale and the bandwidth of MMD². None
            in the published evidence, because older versions did not record this number.
        shift_ratio: maps each layer to MMD²(before, after) / MMD²(before, re-initialised) on standardised features.
        paired_similarity: maps each layer to its paired similarity; see `shift.paired_similarity`.
        measures: maps the name of each measure other than MMD² (`cka`, `frechet`, `energy`, `logme`, `h_score`) to its
            value on the primary layer.
        shift_by_bandwidth: maps a factor (`0.5`, `2`) to MMD² with the bandwidth multiplied by this factor, on the
            standardised features of the primary layer.
        seeds: results of each training seed, in order; empty if the check has one seed. With several seeds, gains are
            means over the seeds. The values of `networks`, `shift`, `shift_ratio`, `paired_similarity`, `measures` and
            `shift_by_bandwidth` belong to the first seed.
        seed_variation: how shift and convergence vary with the seed; None if the check has one seed.
        cut_structures: structures of which less than the share `field_of_view.CAUTION_BELOW` lies in the model's field
            of view, smallest share first.
        shortened: smallest training budget of all networks; None if every network has the full budget of its recipe.
        mixed_series: see `DatasetManifest.list_mixed_series`.
        settings: the request of the check, and the digests of the inputs that the request names.
    """

    check_id: str
    task: str
    held_out: bool
    phantom: bool
    leakage_known: bool
    test_groups: int
    reference_groups: int | None = None
    verdict: Verdict
    pretraining: Verdict | None = Field(default=None, exclude_if=lambda verdict: verdict is None)
    metrics: tuple[MetricSpec, ...]
    primary_metric: str
    rpg_specialised: Gain
    rpg_scratch: Gain
    gain_frozen_random: Gain | None = Field(default=None, exclude_if=lambda gain: gain is None)
    naive_baseline: NaiveBaseline
    networks: tuple[NetworkResult, ...]
    shift: ComputeResponse
    shift_ratio: dict[str, Estimate]
    paired_similarity: dict[str, Estimate]
    measures: dict[str, Estimate] = Field(default_factory=dict)
    shift_by_bandwidth: dict[str, Estimate]
    seeds: tuple[SeedAnalysis, ...] = ()
    seed_variation: SeedVariation | None = None
    # Empty values are not serialised, so that results have the same digests as before these fields existed.
    cut_structures: tuple[CutStructure, ...] = Field(default=(), exclude_if=lambda cut: not cut)
    shortened: TrainingBudget | None = Field(default=None, exclude_if=lambda budget: budget is None)
    mixed_series: tuple[str, ...] = Field(default=(), exclude_if=lambda mixed: not mixed)
    settings: dict[str, str]

    @property
    def metric(self) -> MetricSpec:
        """The primary metric."""
        return next(metric for metric in self.metrics if metric.name == self.primary_metric)

    @property
    def frozen(self) -> bool:
        """Whether only the head of the pretrained network was trained. There is then no shift."""
        return "frozen" in self.settings

    @property
    def trainings(self) -> int:
        """Number of trainings of each network."""
        return max(1, len(self.seeds))

    @property
    def interval_scope(self) -> str:
        """Sources of variation that the intervals of the gains cover."""
        return "covers patients and training" if self.seeds else "covers patients, not training"

    def network(self, name: Network) -> NetworkResult:
        """Returns the result of one network."""
        return next(result for result in self.networks if result.network == name)


class StageTime(Record):
    """One stage of a check: how often it was started, and how long its last run took."""

    stage: str
    attempts: int
    seconds: float | None


class LostArtifact(Record):
    """A lost object, and the stage of the check that created the object again. `message` names the object."""

    stage: str
    message: str


class RunRecord(Record):
    """Facts that differ between repeated runs of the same check.

    Attributes:
        losses: lost or damaged objects that the check created again.
        trained_by: maps each network to the job that trained it. From the second seed on, the names of the networks end
            in `_s2`, `_s3`, …. A baseline may have been trained by the job of another check.
    """

    created_at: datetime
    finished_at: datetime
    stages: tuple[StageTime, ...]
    losses: tuple[LostArtifact, ...] = ()
    job_attempts: dict[str, int]
    trained_by: dict[str, str] = Field(default_factory=dict)
    devices: dict[str, str]
    software: dict[str, str]
    figures: dict[str, tuple[StoredFigure, ...]]


class CheckReport(Record):
    """`checks/<id>/report.json`. A check without a plan is done once this file exists.

    Attributes:
        plan: outcome of the plan; None if the check has none.
    """

    result_digest: str
    result: CheckAnalysis
    run: RunRecord
    plan: PlanResult | None = Field(default=None, exclude_if=lambda plan: plan is None)
