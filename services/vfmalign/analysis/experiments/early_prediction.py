"""Early prediction: does the shift at an early step predict the final gain, beyond the validation score at that step?

One task is left out in turn. A line is fitted on the other tasks and ranks the models of the task left out.
Axes: P permutations, N models, T tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vfmalign.analysis.experiments.cells import Cell
from vfmalign.analysis.experiments.joint_permutations import JointPermutations
from vfmalign.analysis.experiments.points import Point, get_gain, list_tasks
from vfmalign.analysis.experiments.rank_correlation import rank_correlations
from vfmalign.analysis.experiments.strata import MIN_UNITS, SIGNIFICANCE_LEVEL
from vfmalign.core.domain.record import Record

_ROUNDING = 1e-9
"""Sums of squares of standardised numbers, which are 0 or about N, below which they count as 0."""

Array = npt.NDArray[np.float64]


class EarlyStep(Record):
    """Predictions from one step: mean ρ between predicted and final gain over the tasks left out.

    Attributes:
        tasks: number of tasks in which two models or more have all numbers.
        models: number of models that have all numbers in every one of these tasks.
        rho_shift: prediction from the shift.
        rho_score: prediction from the validation score.
        rho_both: prediction from both.
        p_adds: probability under joint permutation of the shift's residuals, given the score, that both together
            predict as well; None for fewer than `MIN_UNITS` models.
    """

    step: int
    tasks: int
    models: int
    rho_shift: float | None
    rho_score: float | None
    rho_both: float | None
    p_adds: float | None
    sentence: str


class EarlyPrediction(Record):
    """Predictions from every probed step, and the conclusion."""

    steps: tuple[EarlyStep, ...]
    sentence: str


@dataclass(frozen=True)
class EarlyNumbers:
    """Numbers of the same models in every task, known at one step, and the final gain.

    Attributes:
        shift_NT: shift of the features.
        score_NT: validation score; higher is better.
        gain_NT: final gain.
    """

    shift_NT: Array
    score_NT: Array
    gain_NT: Array


def evaluate_early_probes(points: Sequence[Point], *, seed: int) -> EarlyPrediction:
    """Evaluates the prediction from every probed step."""
    steps = sorted({probe.step for point in points for cell in point.cells for probe in cell.probes})
    if not steps:
        return EarlyPrediction(steps=(), sentence="no training was probed early")
    results = tuple(_evaluate_step(points, step, len(steps), seed) for step in steps)
    if all(result.p_adds is None for result in results):
        sentence = f"it cannot be determined whether an early MMD² adds anything: {results[0].sentence}"
        return EarlyPrediction(steps=results, sentence=sentence)
    helpful = [str(result.step) for result in results if _adds_information(result, len(steps))]
    if helpful:
        sentence = (
            f"after step{'s' if len(helpful) > 1 else ''} {' and '.join(helpful)}, MMD² improved the prediction "
            "from the early validation score"
        )
    else:
        sentence = "at no step did MMD² improve the prediction from the early validation score beyond chance"
    return EarlyPrediction(steps=results, sentence=sentence)


def _adds_information(result: EarlyStep, n_steps: int) -> bool:
    """Whether the shift improves the prediction; the level is divided by the number of steps (Bonferroni)."""
    return (
        result.p_adds is not None
        and result.p_adds <= SIGNIFICANCE_LEVEL / n_steps
        and (result.rho_both or 0.0) > (result.rho_score or 0.0)
    )


def _evaluate_step(points: Sequence[Point], step: int, n_steps: int, seed: int) -> EarlyStep:
    tasks = {name: rows for name in list_tasks(points) if len(rows := _read_task(points, name, step)) > 1}
    models = sorted(set.intersection(*map(set, tasks.values()))) if tasks else []
    if len(tasks) < 2 or len(models) < 2:
        return EarlyStep(
            step=step, tasks=len(tasks), models=len(models), rho_shift=None, rho_score=None, rho_both=None, p_adds=None,
            sentence=f"{len(tasks)} tasks share {len(models)} models with probes and gains; leaving one out needs two",
        )  # fmt: skip
    table_3NT = np.array([[rows[model] for rows in tasks.values()] for model in models]).transpose(2, 0, 1)
    numbers = EarlyNumbers(*table_3NT)
    rho_shift, rho_score, rho_both = rank_left_out_tasks(numbers)
    enough = len(models) >= MIN_UNITS
    result = EarlyStep(
        step=step,
        tasks=len(tasks),
        models=len(models),
        rho_shift=rho_shift,
        rho_score=rho_score,
        rho_both=rho_both,
        p_adds=get_p_adds(numbers, JointPermutations.create(len(models), seed)) if enough else None,
        sentence="",
    )
    return result.model_copy(update={"sentence": _describe(result, n_steps)})


def rank_left_out_tasks(numbers: EarlyNumbers) -> tuple[float, float, float]:
    """Mean ρ of predicted and final gain over the tasks left out: from the shift, from the score, and from both."""
    shift_NT, score_NT, gain_NT = _standardise(numbers)
    absent_NT = np.zeros_like(shift_NT)
    shift, score, both = (
        float(_correlate_predictions(x_NT[np.newaxis], z_NT, gain_NT)[0])
        for x_NT, z_NT in ((shift_NT, absent_NT), (absent_NT, score_NT), (shift_NT, score_NT))
    )
    return shift, score, both


def get_p_adds(numbers: EarlyNumbers, orders: JointPermutations) -> float:
    """Tests whether the shift adds to the prediction from the score.

    The residuals of the shift given the score are permuted, in all tasks at once, and added to the fitted values
    (Freedman and Lane, J. Bus. Econ. Stat. 1, 1983, here on the side of the predictor, as in Winkler et al., NeuroImage
    92, 2014, `Smith`). Permuting the shift itself would also break its relation with the score, and a shift that
    repeats the score would appear to add to it. The residuals of the gain given the score could be permuted instead,
    but the level of that test exceeds 5 % for five models with large effects.

    Args:
        numbers: numbers of the models.
        orders: orders of the models.
    """
    shift_NT, score_NT, gain_NT = _standardise(numbers)
    slope = float(_divide((score_NT * shift_NT).sum(), (score_NT * score_NT).sum()))
    fitted_NT = slope * score_NT
    observed = float(_correlate_predictions(shift_NT[np.newaxis], score_NT, gain_NT)[0])
    rho_P = _correlate_predictions(fitted_NT + orders.apply(shift_NT - fitted_NT), score_NT, gain_NT)
    return orders.get_p_value(rho_P, observed)


def _describe(result: EarlyStep, n_steps: int) -> str:
    if result.models < MIN_UNITS:
        return f"undecided: {result.models} models have all numbers in every task, and a test needs {MIN_UNITS}"
    if _adds_information(result, n_steps):
        return "MMD² improves the prediction from the validation score"
    return "MMD² does not improve the prediction from the validation score beyond chance"


def _read_task(points: Sequence[Point], name: str, step: int) -> dict[str, tuple[float, float, float]]:
    """Shift, score and gain of every model that has all three in the task, by model."""

    def get_shift(cell: Cell) -> float | None:
        return next((probe.shift.value for probe in cell.probes if probe.step == step), None)

    def get_score(cell: Cell) -> float | None:
        sign = 1.0 if cell.metric.higher_is_better else -1.0
        return next((sign * probe.validation_score for probe in cell.probes if probe.step == step), None)

    return {
        point.model_id: (shift, score, gain)
        for point in points
        if point.task == name
        and (shift := point.mean(get_shift)) is not None
        and (score := point.mean(get_score)) is not None
        and (gain := point.mean(get_gain)) is not None
    }


def _standardise(numbers: EarlyNumbers) -> tuple[Array, Array, Array]:
    """Shift, score and gain, standardised over the models of each task; zero where all are equal."""

    def standardise(value_NT: Array) -> Array:
        sd_T = value_NT.std(axis=0)
        standardised_NT: Array = (value_NT - value_NT.mean(axis=0)) / np.where(sd_T > 0, sd_T, np.inf)
        return standardised_NT

    return standardise(numbers.shift_NT), standardise(numbers.score_NT), standardise(numbers.gain_NT)


def _correlate_predictions(shift_PNT: Array, score_NT: Array, gain_NT: Array) -> Array:
    """Mean ρ over the tasks left out, for P sets of shifts.

    Predictors and gain are standardised within each task, so that the line needs no intercept. Its slopes come from
    sums over the other tasks: first that of the shift, given the score. A predictor that is zero or adds nothing has
    the slope 0, and a prediction in which all models are tied has ρ = 0.
    """

    def sum_other_tasks(product_NT: Array) -> Array:
        sum_T = product_NT.sum(axis=-2, keepdims=True)
        other_T: Array = sum_T.sum(axis=-1, keepdims=True) - sum_T
        return other_T

    score_score, score_gain = sum_other_tasks(score_NT * score_NT), sum_other_tasks(score_NT * gain_NT)
    shift_score, shift_gain = sum_other_tasks(shift_PNT * score_NT), sum_other_tasks(shift_PNT * gain_NT)
    share = _divide(shift_score, score_score)
    shift_slope = _divide(shift_gain - share * score_gain, sum_other_tasks(shift_PNT * shift_PNT) - share * shift_score)
    score_slope = _divide(score_gain - shift_slope * shift_score, score_score)
    # Rounded, so that predictions that differ by rounding errors alone stay tied.
    predicted_PNT = np.round(shift_slope * shift_PNT + score_slope * score_NT, 9)
    rho_PT = rank_correlations(predicted_PNT.swapaxes(-1, -2), gain_NT.T)
    rho_P: Array = np.nan_to_num(rho_PT).mean(axis=-1)
    return rho_P


def _divide(dividend: Array, divisor: Array) -> Array:
    """The quotient; 0 where the divisor is 0 within rounding."""
    quotient: Array = np.divide(dividend, divisor, out=np.zeros_like(dividend), where=np.abs(divisor) > _ROUNDING)
    return quotient
