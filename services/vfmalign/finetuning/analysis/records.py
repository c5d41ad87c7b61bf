"""What a check measured: the records behind `checks/<id>/mmd.json` and `checks/<id>/report.json`.

`CheckResult` depends on inputs and seeds alone: two runs of one check have equal ones, whatever was killed on the way.
`RunRecord` holds what differs from run to run. Knows nothing of S3, gRPC or HTML.
"""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from vfmalign.core.domain.artifacts import FigureRef, MetricSpec, Network, Record
from vfmalign.finetuning.analysis.convergence import Convergence, Steps
from vfmalign.finetuning.analysis.estimates import Estimate, absent
from vfmalign.finetuning.analysis.gain import Gain
from vfmalign.finetuning.analysis.verdict import Verdict

SATURATION_THRESHOLD = 0.05
"""Reach under which MMD² is saturated: a common move of 2.45 σ leaves so much, and MMD² then has 95 % of its limit."""

MEANINGS: dict[str, str] = {
    "cka": "similarity of features before and after: 1 where they are the same up to a rotation, one scale and a "
    "translation, lower the more they changed among each other",
    "frechet": "squared distance of mean and covariance on the main axes of the features before: 0 where both are "
    "equal, higher the farther; few cases raise it",
    "energy": "distance of features before and after: higher the farther; about 0, or below, where nothing moved",
    "logme": "log evidence per training case that a linear model on the features before tells the classes: higher is "
    "better; says nothing of shift",
}
"""Measures in the order in which they are shown, with what their values mean."""


class Shift(Record):
    """MMD² of one layer in one scaling of the features; fields as in `mmd.proto`'s ShiftResult."""

    mmd2: Estimate
    sigma: float
    p_value: Estimate
    p_value_max_t: Estimate
    permutations: int
    enumerated: bool
    error_bound: float
    below_error_bound: bool


class LayerShift(Record):
    """MMD² of one layer, on raw features and on features standardised by the reference."""

    layer: str
    channels: int
    channels_excluded: int
    raw: Shift
    standardised: Shift | None


class Projection(Record):
    """Principal coordinates of the primary layer, row by row: before and after."""

    before: tuple[tuple[float, float], ...]
    after: tuple[tuple[float, float], ...]
    explained_variance: tuple[float, ...]


class Comparison(Record):
    """Two feature sets compared layer by layer, the primary layer first."""

    primary_layer: str
    estimator: str
    rows: int
    groups: int
    precision: str
    layers: tuple[LayerShift, ...]
    projection: Projection | None = None

    def layer(self, name: str) -> LayerShift:
        """The result of one layer."""
        return next(shift for shift in self.layers if shift.layer == name)


class Measured(Record):
    """`checks/<id>/mmd.json`: features after, and those of the re-initialised architecture, against those before.

    Attributes:
        biased: the features after once more, by the V-statistic; None in artifacts of versions that did not ask for it.
    """

    before_id: str
    after_id: str
    reinitialised_id: str
    reference_id: str
    after: Comparison
    biased: Comparison | None = None
    reinitialised: Comparison
    device: str


class CurvePoint(Record):
    """One validation: `train_loss` is None before training."""

    epoch: int
    step: int
    train_loss: float | None
    val_score: float


class NetworkResult(Record):
    """One network of the check.

    Attributes:
        test_means: each metric of the test cases for which it is defined; None where it is for none.
        weight_change: ‖θ−θ0‖/‖θ0‖ of the encoder; None for the specialised network.
        encoder_rate: share of the learning rate that the encoder got; None where the network has none.
        steps_to_specialised: first step that reaches the specialised network's best validation score.
    """

    network: Network
    job: str
    architecture: str
    parameters: int
    learning_rate: float
    encoder_rate: float | None = None
    curve: tuple[CurvePoint, ...]
    convergence: Convergence
    steps_to_specialised: Steps | None
    selected_epoch: int
    selected_step: int
    test_means: dict[str, float | None]
    weight_change: float | None


class NaiveBaseline(Record):
    """What predicting without any network gives on the test cases.

    Attributes:
        prediction: what is predicted, in words.
        test_means: its metrics of the set.
        gain: of the fine-tuned model over it.
    """

    prediction: str
    test_means: dict[str, float | None]
    gain: Gain

    @property
    def not_beaten(self) -> bool:
        """Whether the fine-tuned model's score is no better; False where either has none."""
        return self.gain.difference.value is not None and self.gain.difference.value <= 0


class Probe(Record):
    """What an early look at a training showed: encoder against features before, and validation, at one step.

    Attributes:
        shift: MMD² of the primary layer, as the check's main number.
        val_score: the task's main metric on `val` at that step.
    """

    step: int
    shift: Estimate
    val_score: float


class CheckResult(Record):
    """Everything a check concludes; equal for equal inputs and seeds.

    Attributes:
        held_out: False where the same case stands in several splits; every number is then descriptive.
        phantom: True where the cases are generated: a rehearsal, not a statement about patients.
        leakage_known: False where the model card does not say what the model was pretrained on.
        test_groups: patients of the test split.
        shift_ratio: by layer, MMD²(before, after) / MMD²(before, re-initialised), standardised features.
        paired_similarity: by layer, how much of the kernel's reach is left, see `paired_similarity`.
        naive_baseline: the naive baseline; None in artifacts of versions that did not make it.
        measures: of the primary layer beside MMD², by name (`cka`, `frechet`, `energy`, `logme`).
        probes: early looks at the pretrained network's training, in order of steps.
        settings: what was asked for, and the digests of what it was asked of.
    """

    check: str
    task: str
    held_out: bool
    phantom: bool
    leakage_known: bool
    test_groups: int
    verdict: Verdict
    metrics: tuple[MetricSpec, ...]
    primary_metric: str
    rpg_specialised: Gain
    rpg_scratch: Gain
    naive_baseline: NaiveBaseline | None = None
    networks: tuple[NetworkResult, ...]
    shift: Comparison
    shift_ratio: dict[str, Estimate]
    paired_similarity: dict[str, Estimate] = Field(default_factory=dict)
    measures: dict[str, Estimate] = Field(default_factory=dict)
    probes: tuple[Probe, ...] = ()
    settings: dict[str, str]

    def network(self, name: Network) -> NetworkResult:
        """The result of one network."""
        return next(result for result in self.networks if result.network == name)

    def get_paired_similarity(self, layer: str) -> Estimate:
        """The reach of one layer."""
        return self.paired_similarity.get(layer) or absent("the version that made this report did not measure it")


class Caution(Record):
    """Something that a reader must know before any number."""

    title: str
    text: str


def cautions(result: CheckResult) -> tuple[Caution, ...]:
    """What limits the meaning of a check's numbers."""
    found = []
    if not result.held_out:
        found.append(
            Caution(
                title="Not held out",
                text="The same case stands in several splits: every number describes this run and says nothing about "
                "new cases.",
            )
        )
    if result.phantom:
        found.append(
            Caution(
                title="Phantom rehearsal",
                text="The cases are generated, not patients: this shows that the procedure runs, not what a model is "
                "worth in a clinic.",
            )
        )
    far = [layer.layer for layer in result.shift.layers if is_saturated(result.get_paired_similarity(layer.layer))]
    if far:
        found.append(
            Caution(
                title="Out of the kernel's reach",
                text=f"In {', '.join(far)} the features after lie so far from those before that MMD² is near the "
                "most it can be: it says that they moved far, not how far, and cannot rank models or checks.",
            )
        )
    if result.naive_baseline is not None and result.naive_baseline.not_beaten:
        found.append(
            Caution(
                title="Naive baseline not beaten",
                text=f"On the test cases the fine-tuned model's {result.primary_metric.replace('_', ' ')} is no better "
                f"than that of the naive baseline ({result.naive_baseline.prediction}): whatever it gained over other "
                "networks, it has not learned the task.",
            )
        )
    if not result.leakage_known:
        found.append(
            Caution(
                title="Pretraining set unknown",
                text="The model card does not list what the model was pretrained on, so it cannot be excluded that it "
                "has seen test cases.",
            )
        )
    if len({network.convergence.budget for network in result.networks}) > 1:
        found.append(
            Caution(
                title="Unequal budgets",
                text="The networks were not trained for the same number of steps: gains over the baselines mix the "
                "model with its budget.",
            )
        )
    return tuple(found)


class StageTime(Record):
    """One stage of one check: how often it was begun and how long the run took that finished it."""

    stage: str
    attempts: int
    seconds: float | None


class RunRecord(Record):
    """What differs from run to run.

    Attributes:
        trained_by: the job that trained each network: one of another check where that trained the same baseline.
    """

    created_at: datetime
    finished_at: datetime
    stages: tuple[StageTime, ...]
    job_attempts: dict[str, int]
    trained_by: dict[Network, str] = Field(default_factory=dict)
    devices: dict[str, str]
    software: dict[str, str]
    figures: dict[str, tuple[FigureRef, ...]]


class CheckReport(Record):
    """`checks/<id>/report.json`: the last artifact of a check; its existence means that the check is done."""

    result_digest: str
    result: CheckResult
    run: RunRecord


def shift_ratio(after: LayerShift, reinitialised: LayerShift) -> Estimate:
    """How far fine-tuning moved a layer, in units of how far random weights are (design §5).

    Absent where the shift to random weights cannot be told from zero: the ratio would be noise.
    """
    if after.standardised is None or reinitialised.standardised is None:
        return absent("no standardised features")
    below, above = reinitialised.standardised, after.standardised
    if below.mmd2.value is None or above.mmd2.value is None:
        return absent(above.mmd2.absent_reason or below.mmd2.absent_reason)
    if below.mmd2.value <= below.error_bound:
        return absent("the shift to random weights is not above zero at this precision")
    return Estimate(value=above.mmd2.value / below.mmd2.value, absent_reason="no interval is formed for this ratio")


def paired_similarity(unbiased: LayerShift, biased: LayerShift, rows: int) -> Estimate:
    """The mean of k(x_i, y_i) over pairs: how much of each case is still within the kernel's reach of itself before.

    The paired U-statistic leaves out h(z_i, z_i) = 2 − 2k(x_i, y_i), the V-statistic does not; so from n pairs
    n·V − (n − 1)·U is the mean of h(z_i, z_i). Taken on the features of the main number.

    Args:
        unbiased: U, by Lemma 6's form over pairs.
        biased: V, of the same samples with the same kernel, whose value between equal rows is 1.
        rows: n.
    """
    u, v = unbiased.standardised or unbiased.raw, biased.standardised or biased.raw
    if u.mmd2.value is None or v.mmd2.value is None:
        return absent(u.mmd2.absent_reason or v.mmd2.absent_reason)
    if (rows * v.error_bound + (rows - 1) * u.error_bound) / 2 > SATURATION_THRESHOLD / 10:
        return absent("the precision of MMD² does not resolve the kernel between a case and itself")
    mean = 1 - (rows * v.mmd2.value - (rows - 1) * u.mmd2.value) / 2
    return Estimate(value=mean, absent_reason="no interval is formed for this mean")


def is_saturated(reached: Estimate) -> bool:
    """Whether MMD² says no more than that features moved far."""
    return reached.value is not None and reached.value < SATURATION_THRESHOLD
