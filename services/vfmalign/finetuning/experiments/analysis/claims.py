"""The paper's two claims, each evaluated in two designs: ρ, permutation test, bootstrap interval and verdict.

Axes: R resamples, S strata, N units of one stratum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from vfmalign.client.messages.common import Estimate, Interval, absent
from vfmalign.core.domain.record import Record
from vfmalign.finetuning.experiments.analysis.bootstrap import PointKey, ResampledPoint
from vfmalign.finetuning.experiments.analysis.joint_permutations import PermutationTest, run_joint_permutation_test
from vfmalign.finetuning.experiments.analysis.points import (
    RATIO,
    SHIFT,
    GetNumber,
    Point,
    Quantity,
    get_gain,
    get_step_share,
)
from vfmalign.finetuning.experiments.analysis.rank_correlation import Stratum, mean_correlation, rank_correlations
from vfmalign.finetuning.experiments.analysis.strata import (
    DESIGN_LABELS,
    MIN_UNITS,
    SIGNIFICANCE_LEVEL,
    Design,
    StratumResult,
    make_strata,
    select_common_units,
    summarise_strata,
)
from vfmalign.finetuning.reports.formatting import format_correlation, format_p_value

ClaimName = Literal["gain", "convergence"]
ClaimVerdict = Literal["supports", "contradicts", "no_clear_relation", "cannot support or contradict"]

MAX_UNDEFINED_SHARE = 0.05
"""Share of resamples with an undefined ρ above which there is no interval."""
METHOD = "percentile bootstrap, nested over seeds and cases"
EXPECTED_SIGNS: Mapping[ClaimName, int] = {"gain": -1, "convergence": 1}
CLAIM_STATEMENTS: Mapping[ClaimName, str] = {
    "gain": "lower shift goes with larger gain",
    "convergence": "lower shift goes with faster convergence",
}
OUTCOMES: Mapping[ClaimName, GetNumber] = {"gain": get_gain, "convergence": get_step_share}

Array = npt.NDArray[np.float64]


class Claim(Record):
    """One claim in one design.

    Attributes:
        shift_measure: `mmd2_std`, which has a verdict, or `shift_ratio`, which is shown beside it without one.
        units: number of models (or tasks) with both numbers in every stratum that is used; 0 without ρ.
        rho: mean of the strata's ρ over these units, with its bootstrap interval.
        rho_unflagged: mean of the strata's ρ, with weights N − 1, without points that do not beat the naive baseline
            or are saturated.
        points_without_value: number of points that lack one of the two numbers.
        test: test that permutes the units jointly in all strata; None for fewer than `MIN_UNITS` units.
        verdict: None for `shift_ratio`.
        sentence: the verdict in words, with its reason.
    """

    claim: ClaimName
    design: Design
    shift_measure: str
    strata: tuple[StratumResult, ...]
    units: int
    rho: Estimate
    rho_unflagged: float | None
    points_without_value: int
    test: PermutationTest | None
    verdict: ClaimVerdict | None
    sentence: str


class PooledCorrelation(Record):
    """ρ over all points; descriptive, because it mixes differences between tasks with those between models."""

    claim: ClaimName
    shift_measure: str
    pairs: int
    rho: float | None


def evaluate_claims(
    points: Sequence[Point], resampled: Mapping[PointKey, ResampledPoint], *, seed: int, level: float
) -> tuple[tuple[Claim, ...], tuple[PooledCorrelation, ...]]:
    """Evaluates both claims in both designs, with both measures of shift.

    Args:
        points: the points.
        resampled: resamples of every point.
        seed: seed of the permutations.
        level: nominal coverage of the intervals, in (0, 1).
    """
    claims = tuple(
        _evaluate_claim(points, resampled, claim, design, quantity, seed=seed, level=level)
        for claim in EXPECTED_SIGNS
        for design in DESIGN_LABELS
        for quantity in (SHIFT, RATIO)
    )
    return claims, tuple(_pool(points, claim, quantity) for claim in EXPECTED_SIGNS for quantity in (SHIFT, RATIO))


def _evaluate_claim(
    points: Sequence[Point],
    resampled: Mapping[PointKey, ResampledPoint],
    claim: ClaimName,
    design: Design,
    quantity: Quantity,
    *,
    seed: int,
    level: float,
) -> Claim:
    strata = make_strata(points, design, quantity.get, OUTCOMES[claim])
    used = select_common_units(strata)
    units = len(used[0].units) if used else 0
    rho = mean_correlation(used)
    test = run_joint_permutation_test(used, sign=EXPECTED_SIGNS[claim], seed=seed)
    unflagged = [point for point in points if not (point.flags.not_beaten or point.flags.saturated)]
    held_out = not any(point.flags.not_held_out for point in points)
    verdict, sentence = decide_claim(claim, design, units, rho, test, held_out=held_out)
    if rho is None:
        estimate = absent(sentence)
    elif claim == "convergence" and all(len(point.cells) == 1 for point in points):
        estimate = Estimate(value=rho, absent_reason="steps vary with the seed alone, and there is one")
    else:
        estimate = _estimate_rho(rho, _join(used, resampled, design), claim, quantity.name, level=level)
    return Claim(
        claim=claim,
        design=design,
        shift_measure=quantity.name,
        strata=summarise_strata(strata, used),
        units=units,
        rho=estimate,
        rho_unflagged=mean_correlation(make_strata(unflagged, design, quantity.get, OUTCOMES[claim])),
        points_without_value=len(points) - sum(len(stratum.units) for stratum in strata),
        test=test,
        verdict=verdict if quantity is SHIFT else None,
        sentence=sentence,
    )


def decide_claim(
    claim: ClaimName,
    design: Design,
    units: int,
    rho: float | None,
    test: PermutationTest | None,
    *,
    held_out: bool = True,
) -> tuple[ClaimVerdict, str]:
    """Decides the verdict and its sentence by the two-sided p, so that both directions need the same evidence.

    Args:
        claim: the claim.
        design: the design.
        units: number of models (or tasks) with both numbers in every stratum.
        rho: mean ρ over these units; None if it is not defined.
        test: joint permutation test; None for fewer than `MIN_UNITS` units.
        held_out: no cell lacks a held-out case.
    """
    unit = "model" if design == "within_task" else "task"
    cannot: ClaimVerdict = "cannot support or contradict"
    everywhere = "in every task" if design == "within_task" else "for every model"
    if rho is None:
        return cannot, f"fewer than two {unit}s have both numbers {everywhere}, or all of them are tied"
    summary = f"mean ρ {format_correlation(rho)}"
    if not held_out:
        return cannot, f"{summary}; cells without a held-out case are descriptive only"
    if test is None:
        return cannot, f"{summary}; {units} {unit}s have both numbers {everywhere}, and a verdict needs {MIN_UNITS}"
    if test.smallest_p_two_sided > SIGNIFICANCE_LEVEL:
        return cannot, (
            f"{summary}; values are tied, so that even the most extreme order of the {unit}s has "
            f"p = {format_p_value(test.smallest_p_two_sided)}, above {SIGNIFICANCE_LEVEL}"
        )
    tested = f"{summary}, two-sided p = {format_p_value(test.p_two_sided)}"
    if test.p_two_sided > SIGNIFICANCE_LEVEL:
        share = f"{100 * test.p_two_sided:.0f} %"
        return "no_clear_relation", f"{tested}: a ρ as extreme arises by chance in {share} of permutations"
    if rho * EXPECTED_SIGNS[claim] > 0:
        outcome = "gained more" if claim == "gain" else "converged faster"
        return "supports", f"{tested}: {unit}s that moved less {outcome}, as the paper reports"
    outcome = "gained less" if claim == "gain" else "converged slower"
    return "contradicts", f"{tested}: {unit}s that moved less {outcome}, against what the paper reports"


def _join(
    used: Sequence[Stratum], resampled: Mapping[PointKey, ResampledPoint], design: Design
) -> list[tuple[Stratum, list[ResampledPoint]]]:
    """Joins the units of every stratum with their resamples. Strata and units are those of the data."""
    return [
        (
            stratum,
            [
                resampled[(unit, stratum.name) if design == "within_task" else (stratum.name, unit)]
                for unit in stratum.units
            ],
        )
        for stratum in used
    ]


def _estimate_rho(
    rho: float, strata: Sequence[tuple[Stratum, list[ResampledPoint]]], claim: ClaimName, quantity: str, *, level: float
) -> Estimate:
    """Mean ρ with percentiles of its resamples. A resample averages over the strata in which its ρ is defined."""
    rho_SR = np.array(
        [
            row_correlations(
                np.stack([unit.get(quantity) for unit in units], axis=1),
                np.stack([unit.get(claim) for unit in units], axis=1),
            )
            for _, units in strata
        ]
    )
    weight_SR = np.isfinite(rho_SR) * np.array([[stratum.weight] for stratum, _ in strata])
    defined_R = weight_SR.sum(0) > 0
    undefined = 1 - float(defined_R.mean())
    if undefined > MAX_UNDEFINED_SHARE:
        reason = f"the rank correlation is undefined in {100 * undefined:.0f} % of resamples"
        return Estimate(value=rho, absent_reason=reason)
    mean_R = (np.nan_to_num(rho_SR) * weight_SR).sum(0)[defined_R] / weight_SR.sum(0)[defined_R]
    lower, upper = np.quantile(mean_R, [(1 - level) / 2, (1 + level) / 2])
    caveats = dict.fromkeys(caveat for _, units in strata for unit in units if (caveat := unit.get_caveat(quantity)))
    interval = Interval(lower=float(lower), upper=float(upper), level=level, method=METHOD, degenerate=bool(caveats))
    return Estimate(value=rho, interval=interval, absent_reason="; ".join(caveats))


def row_correlations(x_RN: Array, y_RN: Array) -> Array:
    """Spearman's ρ of each row over the units that have both numbers; NaN for fewer than two units."""
    rho_R = np.full(len(x_RN), np.nan)
    complete_R = ~(np.isnan(x_RN) | np.isnan(y_RN)).any(axis=1)
    if x_RN.shape[1] > 1:
        rho_R[complete_R] = rank_correlations(x_RN[complete_R], y_RN[complete_R])
    for row in np.flatnonzero(~complete_R):
        present_N = ~(np.isnan(x_RN[row]) | np.isnan(y_RN[row]))
        if present_N.sum() > 1:
            rho_R[row] = rank_correlations(x_RN[row][present_N], y_RN[row][present_N])
    return rho_R


def _pool(points: Sequence[Point], claim: ClaimName, quantity: Quantity) -> PooledCorrelation:
    pairs = [
        (x, y)
        for point in points
        if (x := point.mean(quantity.get)) is not None and (y := point.mean(OUTCOMES[claim])) is not None
    ]
    if len(pairs) < 2:
        return PooledCorrelation(claim=claim, shift_measure=quantity.name, pairs=len(pairs), rho=None)
    x_N, y_N = np.array(pairs, dtype=np.float64).T
    rho = float(rank_correlations(x_N, y_N))
    return PooledCorrelation(
        claim=claim, shift_measure=quantity.name, pairs=len(pairs), rho=None if np.isnan(rho) else rho
    )
