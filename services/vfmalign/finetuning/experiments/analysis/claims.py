"""The paper's two claims, each held against the experiment in two designs: ρ, test, interval and one of four verdicts.

Knows points and their draws. Knows nothing of HTML. Axes: R resamples, N units of one stratum.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from vfmalign.core.domain.artifacts import Record
from vfmalign.finetuning.analysis.estimates import Estimate, Interval, absent
from vfmalign.finetuning.experiments.analysis.bootstrap import Key, Resampled
from vfmalign.finetuning.experiments.analysis.cells import Cell
from vfmalign.finetuning.experiments.analysis.points import (
    RATIO,
    SHIFT,
    Point,
    Quantity,
    gain_of,
    names,
    share_of_steps,
)
from vfmalign.finetuning.experiments.analysis.rank_correlation import (
    PermutationTest,
    Stratum,
    common_test,
    mean_correlation,
    permutation_test,
    rank_correlations,
    usable,
)
from vfmalign.finetuning.reports.formatting import fixed, p_value

ClaimName = Literal["gain", "convergence"]
Design = Literal["within_task", "within_model"]
Word = Literal["supports", "contradicts", "no_clear_relation", "cannot support or contradict"]

MIN_UNITS = 4
"""Models of a task (tasks of a model) below which a verdict is not given."""
SIGNIFICANT = 0.05
MAX_LOST = 0.05
"""Share of resamples without a ρ above which there is no interval."""
METHOD = "percentile bootstrap, nested over seeds and cases"
EXPECTED: Mapping[ClaimName, int] = {"gain": -1, "convergence": 1}
STATEMENT: Mapping[ClaimName, str] = {
    "gain": "lower shift goes with larger gain",
    "convergence": "lower shift goes with faster convergence",
}
OUTCOME: Mapping[ClaimName, Callable[[Cell], float | None]] = {"gain": gain_of, "convergence": share_of_steps}
PLACE: Mapping[Design, str] = {
    "within_task": "within a task, across models",
    "within_model": "within a model, across tasks",
}

Array = npt.NDArray[np.float64]


class StratumResult(Record):
    """ρ of one task's models, or of one model's tasks.

    Attributes:
        pairs: units with both numbers.
        rho: None where it is not defined.
        used: whether it enters the mean and the test.
    """

    name: str
    pairs: int
    rho: float | None
    used: bool


class Claim(Record):
    """One claim in one design.

    Attributes:
        x: the measure of shift: `mmd2_std` has a verdict, `shift_ratio` is shown beside it without one.
        rho: mean of the strata's ρ, each weighing pairs − 1, with its bootstrap interval.
        rho_unmarked: the same without points that are marked as not beating the naive baseline or out of reach.
        without_value: points that lack one of the two numbers.
        test: permutations inside strata.
        common: one permutation for all strata, where they hold the same units.
        verdict: None for `shift_ratio`.
        sentence: the verdict in words, with its reason.
    """

    claim: ClaimName
    design: Design
    x: str
    strata: tuple[StratumResult, ...]
    rho: Estimate
    rho_unmarked: float | None
    without_value: int
    test: PermutationTest | None
    common: PermutationTest | None
    verdict: Word | None
    sentence: str


class Pooled(Record):
    """ρ over all points at once: descriptive, for it mixes differences between tasks and between models."""

    claim: ClaimName
    x: str
    pairs: int
    rho: float | None


def strata_of(
    points: Sequence[Point],
    design: Design,
    x_of: Callable[[Cell], float | None],
    y_of: Callable[[Cell], float | None],
) -> list[Stratum]:
    """Points with both numbers, by task or by model."""
    by, unit = ("task", "model") if design == "within_task" else ("model", "task")
    found = []
    for name in names(points, by):
        mine = sorted((point for point in points if getattr(point, by) == name), key=lambda point: getattr(point, unit))
        rows = [(getattr(point, unit), point.mean(x_of), point.mean(y_of)) for point in mine]
        kept = [(label, x, y) for label, x, y in rows if x is not None and y is not None]
        found.append(
            Stratum(
                name=name,
                units=tuple(row[0] for row in kept),
                x_N=np.array([row[1] for row in kept], dtype=np.float64),
                y_N=np.array([row[2] for row in kept], dtype=np.float64),
            )
        )
    return found


def chosen(strata: Sequence[Stratum]) -> list[Stratum]:
    """Those that enter the mean: of at least `MIN_UNITS` pairs where there is any such, else all with a ρ."""
    kept = usable(strata)
    return [stratum for stratum in kept if len(stratum.units) >= MIN_UNITS] or kept


def weigh_claims(
    points: Sequence[Point], draws: Mapping[Key, Resampled], *, seed: int, level: float
) -> tuple[tuple[Claim, ...], tuple[Pooled, ...]]:
    """Both claims in both designs, with either measure of shift."""
    claims = tuple(
        _claim(points, draws, claim, design, x, seed=seed, level=level)
        for claim in EXPECTED
        for design in PLACE
        for x in (SHIFT, RATIO)
    )
    return claims, tuple(_pooled(points, claim, x) for claim in EXPECTED for x in (SHIFT, RATIO))


def _claim(
    points: Sequence[Point],
    draws: Mapping[Key, Resampled],
    claim: ClaimName,
    design: Design,
    x: Quantity,
    *,
    seed: int,
    level: float,
) -> Claim:
    strata = strata_of(points, design, x.of, OUTCOME[claim])
    used = chosen(strata)
    rho = mean_correlation(used)
    test = permutation_test(used, sign=EXPECTED[claim], seed=seed)
    common = common_test(used, sign=EXPECTED[claim])
    clean = [point for point in points if not (point.marks.not_beaten or point.marks.saturated)]
    held_out = not any(point.marks.not_held_out for point in points)
    verdict, sentence = decide(claim, design, used, rho, test, held_out=held_out)
    if rho is None:
        estimate = absent(sentence)
    elif claim == "convergence" and all(len(point.cells) == 1 for point in points):
        estimate = Estimate(value=rho, absent_reason="steps vary with the seed alone, and there is one")
    else:
        estimate = _interval(rho, _draws(used, draws, design), claim, x.name, level=level)
    return Claim(
        claim=claim,
        design=design,
        x=x.name,
        strata=tuple(
            StratumResult(name=one.name, pairs=len(one.units), rho=one.rho, used=one in used) for one in strata
        ),
        rho=estimate,
        rho_unmarked=mean_correlation(chosen(strata_of(clean, design, x.of, OUTCOME[claim]))),
        without_value=len(points) - sum(len(stratum.units) for stratum in strata),
        test=test,
        common=common,
        verdict=verdict if x is SHIFT else None,
        sentence=sentence,
    )


def decide(
    claim: ClaimName,
    design: Design,
    used: Sequence[Stratum],
    rho: float | None,
    test: PermutationTest | None,
    *,
    held_out: bool = True,
) -> tuple[Word, str]:
    """The verdict and its sentence. The two-sided p decides, so that either word has to be earned alike."""
    units, strata = ("models", "task") if design == "within_task" else ("tasks", "model")
    cannot: Word = "cannot support or contradict"
    if rho is None or test is None:
        return cannot, f"no {strata} has two {units} with both numbers, in different ranks"
    span = f"mean ρ {fixed(rho)}"
    most = max(len(stratum.units) for stratum in used)
    if not held_out:
        return cannot, f"{span}; cells without a held-out case are descriptive only"
    if most < MIN_UNITS:
        return cannot, f"{span}; {most} {units} per {strata}, and a verdict needs at least {MIN_UNITS}"
    if test.smallest_p_two_sided > SIGNIFICANT:
        return cannot, (
            f"{span}; even a perfect order would have p = {p_value(test.smallest_p_two_sided)}, above {SIGNIFICANT}, "
            f"with {test.permutations} permutations"
        )
    tested = f"{span}, two-sided p = {p_value(test.p_two_sided)}"
    if test.p_two_sided > SIGNIFICANT:
        return (
            "no_clear_relation",
            f"{tested}: chance alone gives as much in {100 * test.p_two_sided:.0f} % of permutations",
        )
    less, more = f"{units} that moved less", "gained {}" if claim == "gain" else "converged {}"
    if rho * EXPECTED[claim] > 0:
        word = "more" if claim == "gain" else "faster"
        return "supports", f"{tested}: {less} {more.format(word)}, as the paper reports"
    word = "less" if claim == "gain" else "slower"
    return "contradicts", f"{tested}: {less} {more.format(word)}, against what the paper reports"


def _draws(
    used: Sequence[Stratum], draws: Mapping[Key, Resampled], design: Design
) -> list[tuple[Stratum, list[Resampled]]]:
    """The draws of every stratum's units; strata and their units stay those of the data."""
    return [
        (one, [draws[(unit, one.name) if design == "within_task" else (one.name, unit)] for unit in one.units])
        for one in used
    ]


def _interval(
    rho: float, strata: Sequence[tuple[Stratum, list[Resampled]]], claim: ClaimName, x: str, *, level: float
) -> Estimate:
    """The mean ρ with the percentiles of its draws. A resample averages over the strata in which it has a ρ."""
    rho_SR = np.array(
        [
            row_correlations(
                np.stack([draw.of(x) for draw in drawn], axis=1), np.stack([draw.of(claim) for draw in drawn], axis=1)
            )
            for _, drawn in strata
        ]
    )
    weight_SR = np.isfinite(rho_SR) * np.array([[one.weight] for one, _ in strata])
    kept_R = weight_SR.sum(0) > 0
    lost = 1 - float(kept_R.mean())
    if lost > MAX_LOST:
        return Estimate(value=rho, absent_reason=f"in {100 * lost:.0f} % of resamples no rank correlation is defined")
    mean_R = (np.nan_to_num(rho_SR) * weight_SR).sum(0)[kept_R] / weight_SR.sum(0)[kept_R]
    lower, upper = np.quantile(mean_R, [(1 - level) / 2, (1 + level) / 2])
    weak = dict.fromkeys(draw.weak for _, drawn in strata for draw in drawn if draw.weak)
    interval = Interval(lower=float(lower), upper=float(upper), level=level, method=METHOD, degenerate=bool(weak))
    return Estimate(value=rho, interval=interval, absent_reason="; ".join(weak))


def row_correlations(x_RN: Array, y_RN: Array) -> Array:
    """Spearman's ρ of each row; units without a number are left out of their row; NaN below two."""
    rho_R = np.full(len(x_RN), np.nan)
    whole_R = ~(np.isnan(x_RN) | np.isnan(y_RN)).any(axis=1)
    if x_RN.shape[1] > 1:
        rho_R[whole_R] = rank_correlations(x_RN[whole_R], y_RN[whole_R])
    for row in np.flatnonzero(~whole_R):
        kept_N = ~(np.isnan(x_RN[row]) | np.isnan(y_RN[row]))
        if kept_N.sum() > 1:
            rho_R[row] = rank_correlations(x_RN[row][kept_N], y_RN[row][kept_N])
    return rho_R


def _pooled(points: Sequence[Point], claim: ClaimName, x: Quantity) -> Pooled:
    rows = [(point.mean(x.of), point.mean(OUTCOME[claim])) for point in points]
    kept = [(one, other) for one, other in rows if one is not None and other is not None]
    if len(kept) < 2:
        return Pooled(claim=claim, x=x.name, pairs=len(kept), rho=None)
    x_N, y_N = np.array(kept, dtype=np.float64).T
    rho = float(rank_correlations(x_N, y_N))
    return Pooled(claim=claim, x=x.name, pairs=len(kept), rho=None if np.isnan(rho) else rho)
