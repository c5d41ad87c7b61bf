"""Early prediction: does the shift at an early step predict the final gain, beyond the validation score at that step?

One task is left out in turn. A line is fitted on the other tasks and ranks the models of the task left out.
Axes: P permutations, N models of one task, K predictors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vfmalign.core.domain.record import Record
from vfmalign.finetuning.experiments.analysis.cells import Cell
from vfmalign.finetuning.experiments.analysis.points import Point, get_gain, list_tasks
from vfmalign.finetuning.experiments.analysis.rank_correlation import rank_correlations
from vfmalign.finetuning.experiments.analysis.strata import MIN_UNITS, SIGNIFICANCE_LEVEL

PERMUTATIONS = 1_999

Array = npt.NDArray[np.float64]


class EarlyStep(Record):
    """Predictions from one step: mean ρ between predicted and final gain over the tasks left out.

    Attributes:
        models: number of models in the smallest task.
        rho_shift: prediction from the shift.
        rho_score: prediction from the validation score.
        rho_both: prediction from both.
        p_adds: share of permutations within tasks of the shift's residuals, given the score, in which both together
            predict as well.
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
class _TaskNumbers:
    """Numbers of the models of one task.

    Attributes:
        shift_N: shift, standardised over the models.
        score_N: validation score, standardised over the models.
        gain_N: final gain, for ranks.
        target_N: final gain, standardised over the models.
    """

    shift_N: Array
    score_N: Array
    gain_N: Array
    target_N: Array


def evaluate_early_probes(points: Sequence[Point], *, seed: int) -> EarlyPrediction:
    """Evaluates the prediction from every probed step."""
    steps = sorted({probe.step for point in points for cell in point.cells for probe in cell.probes})
    if not steps:
        return EarlyPrediction(steps=(), sentence="no training was probed early")
    results = tuple(_evaluate_step(points, step, len(steps), seed) for step in steps)
    if all(result.p_adds is None or result.models < MIN_UNITS for result in results):
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
        result.models >= MIN_UNITS
        and result.p_adds is not None
        and result.p_adds <= SIGNIFICANCE_LEVEL / n_steps
        and (result.rho_both or 0.0) > (result.rho_score or 0.0)
    )


def _evaluate_step(points: Sequence[Point], step: int, n_steps: int, seed: int) -> EarlyStep:
    tasks = [numbers for name in list_tasks(points) if (numbers := _read_task(points, name, step)) is not None]
    models = min((len(task.gain_N) for task in tasks), default=0)
    if len(tasks) < 2:
        return EarlyStep(
            step=step, tasks=len(tasks), models=models, rho_shift=None, rho_score=None, rho_both=None, p_adds=None,
            sentence=f"{len(tasks)} tasks have two models with probes and gains; leaving one out needs two",
        )  # fmt: skip
    shift, score, both = (
        _predict(tasks, [np.stack(columns, axis=-1)[np.newaxis] for columns in sides])
        for sides in (
            [[task.shift_N] for task in tasks],
            [[task.score_N] for task in tasks],
            [[task.shift_N, task.score_N] for task in tasks],
        )
    )
    chance_P = _predict(tasks, _permute_residuals(tasks, np.random.default_rng([seed, step])))
    result = EarlyStep(
        step=step,
        tasks=len(tasks),
        models=models,
        rho_shift=float(shift[0]),
        rho_score=float(score[0]),
        rho_both=float(both[0]),
        p_adds=(1 + int((chance_P >= both[0] - 1e-9).sum())) / (1 + PERMUTATIONS),
        sentence="",
    )
    return result.model_copy(update={"sentence": _describe(result, n_steps)})


def _permute_residuals(tasks: Sequence[_TaskNumbers], rng: np.random.Generator) -> list[Array]:
    """Shift and score of every task, with the residuals of the shift given the score permuted within the task.

    Permuting the shift itself would also break its relation with the score, and a shift that repeats the score would
    appear to add to it. Residuals are permuted as in Freedman and Lane (J. Bus. Econ. Stat. 1, 1983).
    """
    variance = sum(float(task.score_N @ task.score_N) for task in tasks)
    slope = sum(float(task.score_N @ task.shift_N) for task in tasks) / variance if variance else 0.0
    columns = []
    for task in tasks:
        fitted_N = slope * task.score_N
        residual_PN = rng.permuted(np.tile(task.shift_N - fitted_N, (PERMUTATIONS, 1)), axis=1)
        columns.append(np.stack([fitted_N + residual_PN, np.broadcast_to(task.score_N, residual_PN.shape)], axis=-1))
    return columns


def _describe(result: EarlyStep, n_steps: int) -> str:
    if result.models < MIN_UNITS:
        return f"undecided with {result.models} models in a task; at least {MIN_UNITS} are needed"
    if _adds_information(result, n_steps):
        return "MMD² improves the prediction from the validation score"
    return "MMD² does not improve the prediction from the validation score beyond chance"


def _read_task(points: Sequence[Point], name: str, step: int) -> _TaskNumbers | None:
    """Numbers of one task at one step; None if fewer than two models have all three numbers."""

    def get_shift(cell: Cell) -> float | None:
        return next((probe.shift.value for probe in cell.probes if probe.step == step), None)

    def get_score(cell: Cell) -> float | None:
        sign = 1.0 if cell.metric.higher_is_better else -1.0
        return next((sign * probe.validation_score for probe in cell.probes if probe.step == step), None)

    rows = [
        (shift, score, gain)
        for point in points
        if point.task == name
        and (shift := point.mean(get_shift)) is not None
        and (score := point.mean(get_score)) is not None
        and (gain := point.mean(get_gain)) is not None
    ]
    if len(rows) < 2:
        return None
    shift_N, score_N, gain_N = np.array(rows, dtype=np.float64).T
    return _TaskNumbers(_standardise(shift_N), _standardise(score_N), gain_N, _standardise(gain_N))


def _standardise(value_N: Array) -> Array:
    sd = float(value_N.std())
    standardised_N: Array = (value_N - value_N.mean()) / sd if sd > 0 else np.zeros_like(value_N)
    return standardised_N


def _predict(tasks: Sequence[_TaskNumbers], columns: Sequence[Array]) -> Array:
    """Mean ρ over the tasks left out, for P sets of K predictors (P, N, K) per task.

    Predictors and gain are standardised within each task, so that the line needs no intercept. A prediction in which
    all models are tied has ρ = 0.
    """
    inner = [x_PNK.swapaxes(1, 2) @ x_PNK for x_PNK in columns]
    outer = [x_PNK.swapaxes(1, 2) @ task.target_N for x_PNK, task in zip(columns, tasks, strict=True)]
    rho_P = np.zeros(len(columns[0]))
    for place, (task, x_PNK) in enumerate(zip(tasks, columns, strict=True)):
        rest_PKK = sum(inner[:place] + inner[place + 1 :], np.zeros_like(inner[0]))
        rest_PK = sum(outer[:place] + outer[place + 1 :], np.zeros_like(outer[0]))
        slope_PK = (np.linalg.pinv(rest_PKK, hermitian=True) @ rest_PK[..., np.newaxis])[..., 0]
        # Rounded, so that predictions that differ by rounding errors alone stay tied.
        predicted_PN = np.round((x_PNK @ slope_PK[..., np.newaxis])[..., 0], 9)
        rho_P += np.nan_to_num(rank_correlations(predicted_PN, task.gain_N))
    return rho_P / len(tasks)
