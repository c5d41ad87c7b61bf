"""Compares predictors of the gain within tasks, and tests whether chance explains the lead of the best predictor.

Axes: P permutations, N models, S tasks, K predictors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from vfmalign.analysis.experiments.joint_permutations import JointPermutations, permute_correlations
from vfmalign.analysis.experiments.points import PREDICTORS, RATIO, SHIFT, Point, Quantity, get_gain
from vfmalign.analysis.experiments.rank_correlation import Stratum, mean_correlation, with_defined_rho
from vfmalign.analysis.experiments.strata import (
    MIN_UNITS,
    SIGNIFICANCE_LEVEL,
    StratumResult,
    get_common_units,
    make_strata,
    restrict_units,
    select_common_units,
    summarise_strata,
)
from vfmalign.client.formatting import format_correlation, format_p_value
from vfmalign.core.domain.record import Record
from vfmalign.core.formats.documents import pluralise

Array = npt.NDArray[np.float64]


class Predictor(Record):
    """Mean rank correlation of one number with the gain, across the models of a task.

    Attributes:
        expected_sign: expected sign of ρ.
        rho: rank correlation, averaged over tasks, of the models that have the gain and this number in every task.
            Competing predictors use the same models.
        absent_reason: why the number is absent, and in how many tasks; empty if every task has the number.
        competes: True if no other number is available in more tasks. A mean over fewer tasks would reach extreme values
            more easily.
    """

    name: str
    label: str
    note: str
    expected_sign: int
    rho: float | None
    strata: tuple[StratumResult, ...]
    competes: bool
    absent_reason: str = ""


class PredictorComparison(Record):
    """All predictors of the gain, and a comparison of the competing predictors.

    Attributes:
        best: predictor with the largest |ρ|; None if fewer than two compete.
        runner_up: predictor with the second largest |ρ|; None if fewer than two compete.
        lead: difference between their |ρ|.
        models: number of models that have the gain and all competing numbers in every task.
        p_best: probability that the largest of all |ρ| is at least as large as observed if the models are permuted
            jointly; None for fewer than `MIN_UNITS` models.
        p_lead: probability that the lead is at least as large as observed; None if `p_best` is None.
        threshold: 95 % point of the largest |ρ| under permutation; None if `p_best` is None.
        permutations: number of permutations; 0 if no test was run.
        sentence: the conclusion.
    """

    predictors: tuple[Predictor, ...]
    best: str | None
    runner_up: str | None
    lead: float | None
    models: int
    p_best: float | None = None
    p_lead: float | None = None
    threshold: float | None = None
    permutations: int = 0
    sentence: str


@dataclass(frozen=True)
class LargestCorrelation:
    """Test of the largest |ρ| and of its lead over the second largest |ρ|.

    `PredictorComparison` describes the attributes.
    """

    p_best: float
    p_lead: float
    threshold: float
    permutations: int


def compare_predictors(points: Sequence[Point], *, seed: int) -> PredictorComparison:
    """Compares all predictors of the gain. All predictors are tested with the same permutations of the models."""
    strata = {quantity.name: make_strata(points, "within_task", quantity.get, get_gain) for quantity in PREDICTORS}
    used, competing = _select_competing(strata)
    predictors = tuple(
        _make_predictor(quantity, strata, used, competing, _explain_absence(points, quantity.name))
        for quantity in PREDICTORS
    )
    rivals = sorted(
        (predictor for predictor in predictors if predictor.competes and predictor.rho is not None),
        key=lambda predictor: -abs(predictor.rho or 0.0),
    )
    if len(rivals) < 2:
        return PredictorComparison(
            predictors=predictors, best=None, runner_up=None, lead=None, models=0,
            sentence="fewer than two numbers can be compared over the same tasks",
        )  # fmt: skip
    compared = [used[rival.name] for rival in rivals]
    models = len(compared[0][0].units)
    test = None if models < MIN_UNITS else _run_test(compared, seed)
    return PredictorComparison(
        predictors=predictors,
        best=rivals[0].name,
        runner_up=rivals[1].name,
        lead=abs(rivals[0].rho or 0.0) - abs(rivals[1].rho or 0.0),
        models=models,
        sentence=_describe(rivals, test, models),
        **({} if test is None else asdict(test)),
    )


def _select_competing(strata: Mapping[str, Sequence[Stratum]]) -> tuple[dict[str, list[Stratum]], set[str]]:
    """Strata that enter the mean of each predictor, and the competing predictors.

    Predictors compete if they have a ρ in the same, largest set of tasks. Their strata are restricted to the models
    that all of them have.
    """
    defined = {name: with_defined_rho(candidates) for name, candidates in strata.items()}
    tasks = max(([stratum.name for stratum in candidates] for candidates in defined.values()), key=len)
    competing = {name for name, candidates in defined.items() if tasks and [one.name for one in candidates] == tasks}
    models = get_common_units([stratum for name in competing for stratum in defined[name]])
    used = {
        name: restrict_units(defined[name], models) if name in competing else select_common_units(candidates)
        for name, candidates in strata.items()
    }
    return used, competing


def _make_predictor(
    quantity: Quantity,
    strata: Mapping[str, Sequence[Stratum]],
    used: Mapping[str, Sequence[Stratum]],
    competing: set[str],
    absent_reason: str,
) -> Predictor:
    return Predictor(
        name=quantity.name,
        label=quantity.label,
        note=quantity.note,
        expected_sign=quantity.expected_sign,
        rho=mean_correlation(used[quantity.name]),
        strata=summarise_strata(strata[quantity.name], used[quantity.name]),
        competes=quantity.name in competing,
        absent_reason=absent_reason,
    )


def _explain_absence(points: Sequence[Point], name: str) -> str:
    """Reasons why cells lack a measure, each with the number of tasks."""
    tasks: dict[str, set[str]] = {}
    for point in points:
        for cell in point.cells:
            measure = {SHIFT.name: cell.shift, RATIO.name: cell.shift_ratio}.get(name) or cell.measures.get(name)
            if measure is not None and measure.value is None:
                tasks.setdefault(measure.absent_reason, set()).add(cell.task)
    return "; ".join(f"{reason} ({pluralise(len(names), 'task')})" for reason, names in tasks.items())


def _run_test(compared: Sequence[Sequence[Stratum]], seed: int) -> LargestCorrelation:
    """Tests the strata of competing predictors. They have the same tasks and models, and therefore the same gains."""
    x_KNS = np.stack([np.stack([stratum.x_N for stratum in strata], axis=1) for strata in compared])
    y_NS = np.stack([stratum.y_N for stratum in compared[0]], axis=1)
    return find_largest_correlation(x_KNS, y_NS, JointPermutations.create(len(y_NS), seed))


def find_largest_correlation(x_KNS: Array, y_NS: Array, orders: JointPermutations) -> LargestCorrelation:
    """Tests whether chance explains the largest mean |ρ| of K ≥ 2 numbers with y, and its lead over the second largest.

    Args:
        x_KNS: the numbers of every model in every task.
        y_NS: the gains.
        orders: orders of the models.
    """
    rho_K, rho_PK = permute_correlations(x_KNS, y_NS, orders)
    size_K, size_PK = np.sort(np.abs(rho_K)), np.sort(np.abs(rho_PK), axis=1)
    return LargestCorrelation(
        p_best=orders.get_p_value(size_PK[:, -1], float(size_K[-1])),
        p_lead=orders.get_p_value(size_PK[:, -1] - size_PK[:, -2], float(size_K[-1] - size_K[-2])),
        threshold=float(np.quantile(size_PK[:, -1], 1 - SIGNIFICANCE_LEVEL)),
        permutations=len(orders),
    )


def _describe(rivals: Sequence[Predictor], test: LargestCorrelation | None, models: int) -> str:
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
    ranking = f"among the predictors that every task has, {ranking}"
    if test is None:
        return f"{ranking}; {models} models with all numbers in every task are too few to determine which predicts best"
    direction = "" if rho * best.expected_sign > 0 else ". The sign of ρ is the opposite of the expected sign"
    if test.p_best > SIGNIFICANCE_LEVEL:
        p = format_p_value(test.p_best)
        return f"{ranking}{direction}. Chance alone could produce a largest |ρ| of this size (p = {p})"
    summary = (
        f"{ranking}{direction}. This is more than chance (p = {format_p_value(test.p_best)}, for the largest of all)"
    )
    if len(tied) > 1:
        return f"{summary}, but none leads"
    return f"{summary}; a lead as large has p = {format_p_value(test.p_lead)}"
