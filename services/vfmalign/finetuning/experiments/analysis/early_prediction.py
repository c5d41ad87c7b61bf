"""Whether an early look at the shift foretells the gain, and whether it adds to the validation score at the same step.

Leave one task out: a line is fitted on the other tasks and ranks the models of the one left out. Knows points. Axes:
P permutations, N models of one task, K predictors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vfmalign.core.domain.artifacts import Record
from vfmalign.finetuning.experiments.analysis.cells import Cell
from vfmalign.finetuning.experiments.analysis.claims import MIN_UNITS, SIGNIFICANT
from vfmalign.finetuning.experiments.analysis.points import Point, gain_of, names
from vfmalign.finetuning.experiments.analysis.rank_correlation import rank_correlations

PERMUTATIONS = 1_999

Array = npt.NDArray[np.float64]


class EarlyStep(Record):
    """Predictions from what was known at one step: mean ρ of predicted and final gain over the tasks left out.

    Attributes:
        models: of the smallest task.
        rho_shift, rho_score, rho_both: from shift alone, from the validation score alone, and from both.
        p_adds: share of permutations, inside tasks, of the shift's rest beyond the score with which both do as well.
    """

    step: int
    tasks: int
    models: int
    rho_shift: float | None
    rho_score: float | None
    rho_both: float | None
    p_adds: float | None
    sentence: str


class EarlyAnswer(Record):
    """Every step that was looked at, and what it comes to."""

    steps: tuple[EarlyStep, ...]
    sentence: str


@dataclass(frozen=True)
class _Task:
    """One task's models, each side standardised over them; the gain as it is, for ranks, and standardised."""

    shift_N: Array
    score_N: Array
    gain_N: Array
    target_N: Array


def look_early(points: Sequence[Point], *, seed: int) -> EarlyAnswer:
    """Every step at which a training was probed."""
    steps = sorted({probe.step for point in points for cell in point.cells for probe in cell.probes})
    if not steps:
        return EarlyAnswer(steps=(), sentence="no training was probed early")
    found = tuple(_at(points, step, len(steps), seed) for step in steps)
    if all(one.p_adds is None or one.models < MIN_UNITS for one in found):
        return EarlyAnswer(
            steps=found, sentence=f"whether an early MMD² adds anything cannot be told: {found[0].sentence}"
        )
    helping = [one for one in found if _adds(one, len(steps))]
    if helping:
        where = " and ".join(str(one.step) for one in helping)
        after = f"after step{'s' if len(helping) > 1 else ''} {where}"
        return EarlyAnswer(steps=found, sentence=f"{after}, MMD² added to what the early validation score foretells")
    return EarlyAnswer(
        steps=found, sentence="at no step did MMD² add anything to the early validation score that chance would not"
    )


def _adds(one: EarlyStep, looks: int) -> bool:
    """Bonferroni over the steps."""
    return (
        one.models >= MIN_UNITS
        and one.p_adds is not None
        and one.p_adds <= SIGNIFICANT / looks
        and (one.rho_both or 0.0) > (one.rho_score or 0.0)
    )


def _at(points: Sequence[Point], step: int, looks: int, seed: int) -> EarlyStep:
    tasks = [task for name in names(points, "task") if (task := _task(points, name, step)) is not None]
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
    chance_P = _predict(tasks, _shuffle(tasks, np.random.default_rng([seed, step])))
    step_result = EarlyStep(
        step=step,
        tasks=len(tasks),
        models=models,
        rho_shift=float(shift[0]),
        rho_score=float(score[0]),
        rho_both=float(both[0]),
        p_adds=(1 + int((chance_P >= both[0] - 1e-9).sum())) / (1 + PERMUTATIONS),
        sentence="",
    )
    return step_result.model_copy(update={"sentence": _sentence(step_result, looks)})


def _shuffle(tasks: Sequence[_Task], rng: np.random.Generator) -> list[Array]:
    """Shift and score of every task, with what the score does not tell of the shift permuted.

    Permuting the shift itself would break its relation with the score as well, and a shift that repeats the score
    would seem to add to it (Freedman and Lane, J. Bus. Econ. Stat. 1 (1983), permute residuals likewise).
    """
    known = sum(float(task.score_N @ task.score_N) for task in tasks)
    slope = sum(float(task.score_N @ task.shift_N) for task in tasks) / known if known else 0.0
    found = []
    for task in tasks:
        told_N = slope * task.score_N
        rest_PN = rng.permuted(np.tile(task.shift_N - told_N, (PERMUTATIONS, 1)), axis=1)
        found.append(np.stack([told_N + rest_PN, np.broadcast_to(task.score_N, rest_PN.shape)], axis=-1))
    return found


def _sentence(one: EarlyStep, looks: int) -> str:
    if one.models < MIN_UNITS:
        return f"with {one.models} models in a task it cannot be told; at least {MIN_UNITS} are needed"
    if _adds(one, looks):
        return "MMD² adds to the validation score"
    return "MMD² adds nothing to the validation score that chance would not"


def _task(points: Sequence[Point], name: str, step: int) -> _Task | None:
    """One task at one step; None below two models with all three numbers."""

    def shift_of(cell: Cell) -> float | None:
        return next((probe.shift.value for probe in cell.probes if probe.step == step), None)

    def score_of(cell: Cell) -> float | None:
        sign = 1.0 if cell.metric.higher_is_better else -1.0
        return next((sign * probe.val_score for probe in cell.probes if probe.step == step), None)

    rows = [
        (shift, score, gain)
        for point in points
        if point.task == name
        and (shift := point.mean(shift_of)) is not None
        and (score := point.mean(score_of)) is not None
        and (gain := point.mean(gain_of)) is not None
    ]
    if len(rows) < 2:
        return None
    shift_N, score_N, gain_N = np.array(rows, dtype=np.float64).T
    return _Task(_standard(shift_N), _standard(score_N), gain_N, _standard(gain_N))


def _standard(value_N: Array) -> Array:
    spread = float(value_N.std())
    standard_N: Array = (value_N - value_N.mean()) / spread if spread > 0 else np.zeros_like(value_N)
    return standard_N


def _predict(tasks: Sequence[_Task], columns: Sequence[Array]) -> Array:
    """Mean ρ over the tasks left out, for P sets of K columns (P, N, K) per task.

    Sides are standardised within each task, so that the line needs no constant. An order that is all ties scores 0.
    """
    inner = [side_PNK.swapaxes(1, 2) @ side_PNK for side_PNK in columns]
    outer = [side_PNK.swapaxes(1, 2) @ task.target_N for side_PNK, task in zip(columns, tasks, strict=True)]
    rho_P = np.zeros(len(columns[0]))
    for place, (task, side_PNK) in enumerate(zip(tasks, columns, strict=True)):
        rest_PKK = sum(inner[:place] + inner[place + 1 :], np.zeros_like(inner[0]))
        rest_PK = sum(outer[:place] + outer[place + 1 :], np.zeros_like(outer[0]))
        slope_PK = (np.linalg.pinv(rest_PKK, hermitian=True) @ rest_PK[..., np.newaxis])[..., 0]
        predicted_PN = np.round((side_PNK @ slope_PK[..., np.newaxis])[..., 0], 9)  # ties stay ties
        rho_P += np.nan_to_num(rank_correlations(predicted_PN, task.gain_N))
    return rho_P / len(tasks)
