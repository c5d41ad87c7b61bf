"""Evaluation of the paper's two claims. Each claim is evaluated in two designs: across models and across tasks.

A mean ρ has no interval, because with few seeds no tested method has the nominal coverage (ADR 0081). Axis: N units of
one stratum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from vfmalign.analysis.experiments.joint_permutations import PermutationTest, run_joint_permutation_test
from vfmalign.analysis.experiments.points import (
    SHIFT,
    SHIFT_MEASURES,
    GetNumber,
    Point,
    Quantity,
    get_gain,
    get_step_share,
    make_points,
)
from vfmalign.analysis.experiments.rank_correlation import Stratum, mean_correlation, rank_correlations
from vfmalign.analysis.experiments.robustness import Reversal, find_reversal, use_common_baselines
from vfmalign.analysis.experiments.strata import (
    DESIGN_LABELS,
    MIN_UNITS,
    SIGNIFICANCE_LEVEL,
    Design,
    StratumResult,
    make_strata,
    select_common_units,
    summarise_strata,
)
from vfmalign.client.formatting import format_correlation, format_p_value
from vfmalign.core.domain.record import Record

ClaimName = Literal["gain", "convergence"]
ClaimVerdict = Literal["supports", "contradicts", "no_clear_relation", "cannot support or contradict"]

EXPECTED_SIGNS: Mapping[ClaimName, int] = {"gain": -1, "convergence": 1}
CLAIM_STATEMENTS: Mapping[ClaimName, str] = {
    "gain": "lower shift goes with larger gain",
    "convergence": "lower shift goes with faster convergence",
}
OUTCOMES: Mapping[ClaimName, GetNumber] = {"gain": get_gain, "convergence": get_step_share}


class Claim(Record):
    """One claim in one design.

    Attributes:
        shift_measure: name of the measure of shift. Only `mmd2_std` has a verdict.
        units: number of models (or tasks) that have both numbers in every included stratum; 0 if ρ is not defined.
        rho: mean of the strata's ρ over these units; None if it is not defined.
        rho_unflagged: mean of the strata's ρ, with weights N − 1. Points are excluded if their model does not beat the
            naive baseline or if their MMD² is saturated.
        rho_common_baselines: ρ recomputed with one common specialised network as the baseline of each task and seed.
        reversal: the few units whose removal changes the sign of ρ; None if there are no such units.
        points_without_value: number of points that lack one of the two numbers.
        test: joint permutation test; None if there are fewer than `MIN_UNITS` units.
        verdict: verdict on the claim; None for `shift_ratio`.
        sentence: sentence that states the verdict and its reason.
    """

    claim: ClaimName
    design: Design
    shift_measure: str
    strata: tuple[StratumResult, ...]
    units: int
    rho: float | None
    rho_unflagged: float | None
    rho_common_baselines: float | None
    reversal: Reversal | None
    points_without_value: int
    test: PermutationTest | None
    verdict: ClaimVerdict | None
    sentence: str


class PooledCorrelation(Record):
    """ρ over all points. Descriptive only, because this ρ mixes differences between tasks with those between models."""

    claim: ClaimName
    shift_measure: str
    pairs: int
    rho: float | None


def evaluate_claims(points: Sequence[Point], *, seed: int) -> tuple[tuple[Claim, ...], tuple[PooledCorrelation, ...]]:
    """Evaluates both claims in both designs, for every measure of shift.

    Args:
        points: the points.
        seed: seed of the permutations.
    """
    rebased = make_points(use_common_baselines([cell for point in points for cell in point.cells]))
    claims = tuple(
        _evaluate_claim(points, rebased, claim, design, quantity, seed=seed)
        for claim in EXPECTED_SIGNS
        for design in DESIGN_LABELS
        for quantity in SHIFT_MEASURES
    )
    return claims, tuple(_pool(points, claim, quantity) for claim in EXPECTED_SIGNS for quantity in SHIFT_MEASURES)


def _evaluate_claim(
    points: Sequence[Point],
    rebased: Sequence[Point],
    claim: ClaimName,
    design: Design,
    quantity: Quantity,
    *,
    seed: int,
) -> Claim:
    def stratify(points: Sequence[Point]) -> list[Stratum]:
        return make_strata(points, design, quantity.get, OUTCOMES[claim])

    strata = stratify(points)
    used = select_common_units(strata)
    units = len(used[0].units) if used else 0
    rho = mean_correlation(used)
    test = run_joint_permutation_test(used, sign=EXPECTED_SIGNS[claim], seed=seed)
    unflagged = [point for point in points if not (point.flags.not_beaten or point.flags.saturated)]
    held_out = not any(point.flags.not_held_out for point in points)
    verdict, sentence = decide_claim(claim, design, units, rho, test, held_out=held_out)
    return Claim(
        claim=claim,
        design=design,
        shift_measure=quantity.name,
        strata=summarise_strata(strata, used),
        units=units,
        rho=rho,
        rho_unflagged=mean_correlation(stratify(unflagged)),
        rho_common_baselines=mean_correlation(select_common_units(stratify(rebased))),
        reversal=find_reversal(used),
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
    """Determines the verdict and its sentence from the two-sided p. Both directions therefore need the same evidence.

    Args:
        claim: the claim.
        design: the design.
        units: number of models (or tasks) that have both numbers in every stratum.
        rho: mean ρ over these units; None if it is not defined.
        test: joint permutation test; None if there are fewer than `MIN_UNITS` units.
        held_out: whether every cell has held-out cases.
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
        return "no_clear_relation", f"{tested}, above {SIGNIFICANCE_LEVEL}: this is within what chance gives"
    if rho * EXPECTED_SIGNS[claim] > 0:
        outcome = "gained more" if claim == "gain" else "converged faster"
        return "supports", f"{tested}: {unit}s that moved less {outcome}, as the paper reports"
    outcome = "gained less" if claim == "gain" else "converged slower"
    return "contradicts", f"{tested}: {unit}s that moved less {outcome}, against what the paper reports"


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
