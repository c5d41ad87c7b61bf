"""Which number foretold the gain best within tasks, and by how much its lead could be chance.

Knows points. Knows nothing of HTML. Axes: P permutations, N models of one task, K predictors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from vfmalign.core.domain.artifacts import Record
from vfmalign.finetuning.experiments.analysis.claims import MIN_UNITS, SIGNIFICANT, StratumResult, chosen, strata_of
from vfmalign.finetuning.experiments.analysis.points import PREDICTORS, Point, gain_of
from vfmalign.finetuning.experiments.analysis.rank_correlation import Stratum, mean_correlation, rank_correlations
from vfmalign.finetuning.reports.formatting import fixed, p_value

PERMUTATIONS = 9_999

Array = npt.NDArray[np.float64]


class Predictor(Record):
    """One number's mean rank correlation with the gain, across the models of a task.

    Attributes:
        expected: sign of ρ that was to be expected.
        competes: whether it has a value in every task that others have; a mean over fewer tasks is extreme more easily.
    """

    name: str
    label: str
    note: str
    expected: int
    rho: float | None
    strata: tuple[StratumResult, ...]
    competes: bool


class Prediction(Record):
    """All predictors held against each other.

    Attributes:
        best, runner_up: names; None where fewer compete.
        lead: how much larger the best one's |ρ| is.
        p_best: share of permutations in which the largest of all |ρ| is as large as the best one's.
        p_lead: share of permutations in which the lead is as large.
        threshold: 95 % point of the largest |ρ| under permutation.
        sentence: what that means.
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


def compare_predictors(points: Sequence[Point], *, seed: int) -> Prediction:
    """Holds every predictor against the gain, with permutations of the gain inside tasks that all of them share."""
    strata = {one.name: strata_of(points, "within_task", one.of, gain_of) for one in PREDICTORS}
    used = {name: chosen(found) for name, found in strata.items()}
    tasks = max((len(found) for found in used.values()), default=0)
    predictors = tuple(
        Predictor(
            name=one.name,
            label=one.label,
            note=one.note,
            expected=one.expected,
            rho=mean_correlation(used[one.name]),
            strata=tuple(
                StratumResult(name=part.name, pairs=len(part.units), rho=part.rho, used=part in used[one.name])
                for part in strata[one.name]
            ),
            competes=0 < len(used[one.name]) == tasks,
        )
        for one in PREDICTORS
    )
    rivals = sorted((one for one in predictors if one.competes), key=lambda one: -abs(one.rho or 0.0))
    if len(rivals) < 2:
        return Prediction(
            predictors=predictors, best=None, runner_up=None, lead=None, p_best=None, p_lead=None, threshold=None,
            permutations=0, sentence="fewer than two numbers can be compared over the same tasks",
        )  # fmt: skip
    size_PK = np.abs(_permuted(points, {one.name: used[one.name] for one in rivals}, seed))
    size_PK.sort(axis=1)
    first, second = abs(rivals[0].rho or 0.0), abs(rivals[1].rho or 0.0)
    p_best = _share(size_PK[:, -1], first)
    p_lead = _share(size_PK[:, -1] - size_PK[:, -2], first - second)
    models = max(len(part.units) for part in used[rivals[0].name])
    return Prediction(
        predictors=predictors,
        best=rivals[0].name,
        runner_up=rivals[1].name,
        lead=first - second,
        p_best=p_best,
        p_lead=p_lead,
        threshold=float(np.quantile(size_PK[:, -1], 1 - SIGNIFICANT)),
        permutations=PERMUTATIONS,
        sentence=_sentence(rivals, (p_best, p_lead), models),
    )


def _permuted(points: Sequence[Point], used: dict[str, list[Stratum]], seed: int) -> Array:
    """Mean ρ of every predictor under permutations of the gain that are the same for all."""
    rng = np.random.default_rng(seed)
    total_PK = np.zeros((PERMUTATIONS, len(used)))
    weight_K = np.zeros(len(used))
    for task in sorted({part.name for parts in used.values() for part in parts}):
        gains = {p.model: gain for p in points if p.task == task and (gain := p.mean(gain_of)) is not None}
        models = sorted(gains)
        gain_PN = rng.permuted(np.tile([gains[model] for model in models], (PERMUTATIONS, 1)), axis=1)
        for place, parts in enumerate(used.values()):
            part = next(part for part in parts if part.name == task)
            rho_P = rank_correlations(part.x_N, gain_PN[:, [models.index(unit) for unit in part.units]])
            total_PK[:, place] += part.weight * np.nan_to_num(rho_P)
            weight_K[place] += part.weight
    mean_PK: Array = total_PK / weight_K
    return mean_PK


def _share(value_P: Array, observed: float) -> float:
    return (1 + int((value_P >= observed - 1e-9).sum())) / (1 + len(value_P))


def _sentence(rivals: Sequence[Predictor], found: tuple[float, float], models: int) -> str:
    """What the comparison comes to; `found` are p of the best one and of its lead."""
    best = rivals[0]
    rho = fixed(best.rho)
    equal = [one.label for one in rivals if math.isclose(abs(one.rho or 0.0), abs(best.rho or 0.0), abs_tol=1e-9)]
    lead = abs(best.rho or 0.0) - abs(rivals[1].rho or 0.0)
    words = f"{best.label} ranked the gain most strongly (ρ {rho}), {lead:.2f} ahead of {rivals[1].label}"
    if len(equal) > 1:
        words = (
            f"{', '.join(equal[:-1])} and {equal[-1]} ranked the gain equally strongly (|ρ| {abs(best.rho or 0.0):.2f})"
        )
    if models < MIN_UNITS:
        return f"{words}; with {models} models per task it cannot be told which predicts best"
    p_best, p_lead = found
    against = "" if (best.rho or 0.0) * best.expected > 0 else ", on the side opposite to the expected one"
    if p_best > SIGNIFICANT:
        return f"{words}{against}; the largest of so many is as large by chance in {100 * p_best:.0f} % of permutations"
    more = f"{words}{against}; that is more than chance gives (p = {p_value(p_best)}, of the largest of all)"
    if len(equal) > 1:
        return f"{more}, but none leads"
    return f"{more}, but a lead as large arises by chance in {100 * p_lead:.0f} % of permutations"
