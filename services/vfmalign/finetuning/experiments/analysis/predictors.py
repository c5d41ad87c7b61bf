"""Comparison of numbers as predictors of the gain within tasks, and how likely the best one's lead is by chance.

Axes: P permutations, N models of one task, K predictors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from vfmalign.core.domain.record import Record
from vfmalign.finetuning.experiments.analysis.points import PREDICTORS, Point, get_gain
from vfmalign.finetuning.experiments.analysis.rank_correlation import Stratum, mean_correlation, rank_correlations
from vfmalign.finetuning.experiments.analysis.strata import (
    MIN_UNITS,
    SIGNIFICANCE_LEVEL,
    StratumResult,
    make_strata,
    select_strata,
    summarise_strata,
)
from vfmalign.finetuning.reports.formatting import format_correlation, format_p_value

PERMUTATIONS = 9_999

Array = npt.NDArray[np.float64]


class Predictor(Record):
    """Mean rank correlation of one number with the gain, across the models of a task.

    Attributes:
        expected_sign: expected sign of ρ.
        competes: whether the number has a value in every task in which others have one. A mean over fewer tasks
            reaches extreme values more easily.
    """

    name: str
    label: str
    note: str
    expected_sign: int
    rho: float | None
    strata: tuple[StratumResult, ...]
    competes: bool


class PredictorComparison(Record):
    """All predictors, and the comparison of those that compete.

    Attributes:
        best: predictor with the largest |ρ|; None if fewer than two compete.
        runner_up: predictor with the second largest |ρ|; None if fewer than two compete.
        lead: difference between their |ρ|.
        p_best: share of permutations in which the largest of all |ρ| is as large as the best one's.
        p_lead: share of permutations in which the lead is as large.
        threshold: 95 % point of the largest |ρ| under permutation.
        sentence: the conclusion.
    """

    predictors: tuple[Predictor, ...]
    best: str | None
    runner_up: str | None
    lead: float | None
    p_best: float | None
    p_lead: float | None
    threshold: float | None
    permutations: int
    sentence: str


def compare_predictors(points: Sequence[Point], *, seed: int) -> PredictorComparison:
    """Compares all predictors of the gain; they share the permutations of the gain within tasks."""
    strata = {quantity.name: make_strata(points, "within_task", quantity.get, get_gain) for quantity in PREDICTORS}
    used = {name: select_strata(candidates) for name, candidates in strata.items()}
    tasks = max((len(selected) for selected in used.values()), default=0)
    predictors = tuple(
        Predictor(
            name=quantity.name,
            label=quantity.label,
            note=quantity.note,
            expected_sign=quantity.expected_sign,
            rho=mean_correlation(used[quantity.name]),
            strata=summarise_strata(strata[quantity.name], used[quantity.name]),
            competes=0 < len(used[quantity.name]) == tasks,
        )
        for quantity in PREDICTORS
    )
    rivals = sorted((predictor for predictor in predictors if predictor.competes), key=lambda p: -abs(p.rho or 0.0))
    if len(rivals) < 2:
        return PredictorComparison(
            predictors=predictors, best=None, runner_up=None, lead=None, p_best=None, p_lead=None, threshold=None,
            permutations=0, sentence="fewer than two numbers can be compared over the same tasks",
        )  # fmt: skip
    size_PK = np.abs(_permuted_correlations(points, {rival.name: used[rival.name] for rival in rivals}, seed))
    size_PK.sort(axis=1)
    first, second = abs(rivals[0].rho or 0.0), abs(rivals[1].rho or 0.0)
    p_best = _p_value(size_PK[:, -1], first)
    p_lead = _p_value(size_PK[:, -1] - size_PK[:, -2], first - second)
    models = max(len(stratum.units) for stratum in used[rivals[0].name])
    return PredictorComparison(
        predictors=predictors,
        best=rivals[0].name,
        runner_up=rivals[1].name,
        lead=first - second,
        p_best=p_best,
        p_lead=p_lead,
        threshold=float(np.quantile(size_PK[:, -1], 1 - SIGNIFICANCE_LEVEL)),
        permutations=PERMUTATIONS,
        sentence=_describe(rivals, p_best, p_lead, models),
    )


def _permuted_correlations(points: Sequence[Point], used: dict[str, list[Stratum]], seed: int) -> Array:
    """Mean ρ of every predictor under the same permutations of the gain."""
    rng = np.random.default_rng(seed)
    total_PK = np.zeros((PERMUTATIONS, len(used)))
    weight_K = np.zeros(len(used))
    for task in sorted({stratum.name for strata in used.values() for stratum in strata}):
        gains = {p.model: gain for p in points if p.task == task and (gain := p.mean(get_gain)) is not None}
        models = sorted(gains)
        gain_PN = rng.permuted(np.tile([gains[model] for model in models], (PERMUTATIONS, 1)), axis=1)
        for column, strata in enumerate(used.values()):
            stratum = next(stratum for stratum in strata if stratum.name == task)
            rho_P = rank_correlations(stratum.x_N, gain_PN[:, [models.index(unit) for unit in stratum.units]])
            total_PK[:, column] += stratum.weight * np.nan_to_num(rho_P)
            weight_K[column] += stratum.weight
    mean_PK: Array = total_PK / weight_K
    return mean_PK


def _p_value(value_P: Array, observed: float) -> float:
    return (1 + int((value_P >= observed - 1e-9).sum())) / (1 + len(value_P))


def _describe(rivals: Sequence[Predictor], p_best: float, p_lead: float, models: int) -> str:
    best = rivals[0]
    rho = best.rho or 0.0
    tied = [rival.label for rival in rivals if math.isclose(abs(rival.rho or 0.0), abs(rho), abs_tol=1e-9)]
    if len(tied) > 1:
        ranking = f"{', '.join(tied[:-1])} and {tied[-1]} ranked the gain equally strongly (|ρ| {abs(rho):.2f})"
    else:
        lead = abs(rho) - abs(rivals[1].rho or 0.0)
        ranking = (
            f"{best.label} ranked the gain most strongly (ρ {format_correlation(best.rho)}), {lead:.2f} ahead of "
            f"{rivals[1].label}"
        )
    if models < MIN_UNITS:
        return f"{ranking}; {models} models per task are too few to determine which predicts best"
    direction = "" if rho * best.expected_sign > 0 else ", with the opposite of the expected sign"
    if p_best > SIGNIFICANCE_LEVEL:
        share = f"{100 * p_best:.0f} %"
        return f"{ranking}{direction}; the largest |ρ| is as large by chance in {share} of permutations"
    summary = f"{ranking}{direction}; this is more than chance (p = {format_p_value(p_best)}, for the largest of all)"
    if len(tied) > 1:
        return f"{summary}, but none leads"
    return f"{summary}, but a lead as large arises by chance in {100 * p_lead:.0f} % of permutations"
