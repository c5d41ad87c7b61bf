"""Rank correlation within strata: its mean over strata, and tests that permute within strata.

Axes: N units of one stratum, P permutations, V distinct values of a distribution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import numpy.typing as npt
import scipy

from vfmalign.core.domain.record import Record

MAX_ENUMERATED = 100_000
"""Largest number of distinct values, and of permutations of one stratum, for which the distribution is enumerated."""
MONTE_CARLO = 20_000
"""Permutations drawn where the distribution is not enumerated."""
_TIE = 1e-9
"""Values that differ by less count as equal: rounding must not separate equal rank correlations."""

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Stratum:
    """Units that are comparable with each other: the models of one task, or the tasks of one model."""

    name: str
    units: tuple[str, ...]
    x_N: Array
    y_N: Array

    @property
    def weight(self) -> float:
        """N − 1, the inverse variance of Spearman's ρ under independence."""
        return len(self.x_N) - 1.0

    @property
    def rho(self) -> float | None:
        """Spearman's ρ with mid-ranks; None for fewer than two units, or if all values of one side are tied."""
        rho = float(rank_correlations(self.x_N, self.y_N)) if len(self.x_N) > 1 else math.nan
        return None if math.isnan(rho) else rho


class PermutationTest(Record):
    """Probability under permutation of a mean ρ as extreme as the observed one.

    Attributes:
        p_paper: one-sided p, in the direction that the paper reports.
        p_two_sided: p of |ρ|.
        permutations: number of distinct permutations within strata, Π N!/Π t! for groups of t ties.
        smallest_p_paper: p_paper of a perfect order with the ties of the data.
        smallest_p_two_sided: p_two_sided of a perfect order with the ties of the data.
        enumerated: True if p is the exact share; False if it is (1 + #)/(1 + B).
        drawn: B; None if enumerated.
    """

    p_paper: float
    p_two_sided: float
    permutations: int
    smallest_p_paper: float
    smallest_p_two_sided: float
    enumerated: bool
    drawn: int | None = None


def rank_correlations(x_PN: Array, y_PN: Array) -> Array:
    """Spearman's ρ along the last axis; the other axes are broadcast.

    Infinite values rank last. NaN where all values of one side are tied.
    """
    x_PN, y_PN = (_centre(scipy.stats.rankdata(side, axis=-1)) for side in (x_PN, y_PN))
    with np.errstate(invalid="ignore", divide="ignore"):
        rho_P: Array = (x_PN * y_PN).sum(-1) / np.sqrt((x_PN * x_PN).sum(-1) * (y_PN * y_PN).sum(-1))
    return rho_P


def _centre(value_PN: Array) -> Array:
    centred_PN: Array = value_PN - value_PN.mean(axis=-1, keepdims=True)
    return centred_PN


def with_defined_rho(strata: Sequence[Stratum]) -> list[Stratum]:
    """Selects the strata in which the rank correlation is defined."""
    return [stratum for stratum in strata if stratum.rho is not None]


def mean_correlation(strata: Sequence[Stratum]) -> float | None:
    """Mean of the strata's ρ with weights N − 1; None if ρ is defined in no stratum."""
    defined = with_defined_rho(strata)
    if not defined:
        return None
    return float(np.average([stratum.rho or 0.0 for stratum in defined], weights=[s.weight for s in defined]))


def count_permutations(y_N: Array) -> int:
    """Number of distinct orders of y: N!/Π t! over its groups of t ties."""
    _, ties = np.unique(y_N, return_counts=True)
    return math.factorial(len(y_N)) // math.prod(math.factorial(int(t)) for t in ties)


def permutation_test(strata: Sequence[Stratum], *, sign: int, seed: int) -> PermutationTest | None:
    """Tests the mean ρ by permuting y within every stratum.

    The distribution of the weighted sum is convolved stratum by stratum and equal sums are merged. It is therefore
    exact even if the product of permutations is large. If there are too many distinct sums, or too many permutations
    in one stratum, `MONTE_CARLO` seeded draws are used instead, with p = (1 + #)/(1 + B).

    Args:
        strata: the strata.
        sign: sign of ρ in the paper's direction, −1 or 1.
        seed: seed of the draws.

    Returns:
        The test; None if ρ is defined in no stratum.
    """
    defined = with_defined_rho(strata)
    observed = mean_correlation(defined)
    if observed is None:
        return None
    smallest_paper, smallest_both = _smallest_p_values(defined, sign)
    exact = _enumerate_mean_rho(defined)
    if exact is not None:
        value_V, share_V = exact
        paper = float(share_V[sign * value_V >= sign * observed - _TIE].sum())
        both = float(share_V[np.abs(value_V) >= abs(observed) - _TIE].sum())
    else:
        value_P = _draw_mean_rho(defined, seed)
        paper = (1 + int((sign * value_P >= sign * observed - _TIE).sum())) / (1 + MONTE_CARLO)
        both = (1 + int((np.abs(value_P) >= abs(observed) - _TIE).sum())) / (1 + MONTE_CARLO)
        smallest_paper = max(smallest_paper, 1 / (1 + MONTE_CARLO))
        smallest_both = max(smallest_both, 1 / (1 + MONTE_CARLO))
    return PermutationTest(
        p_paper=min(1.0, paper),
        p_two_sided=min(1.0, both),
        permutations=math.prod(count_permutations(stratum.y_N) for stratum in defined),
        smallest_p_paper=smallest_paper,
        smallest_p_two_sided=smallest_both,
        enumerated=exact is not None,
        drawn=None if exact is not None else MONTE_CARLO,
    )


def common_permutation_test(strata: Sequence[Stratum], *, sign: int) -> PermutationTest | None:
    """Tests the mean ρ with the same permutation in all strata, so that the units are models (or tasks), not cells.

    If models keep their order from task to task, the strata depend on each other. Independent permutations within
    strata ignore this dependence. Returns None if strata have different units or more than `MAX_ENUMERATED`
    permutations.
    """
    defined = with_defined_rho(strata)
    observed = mean_correlation(defined)
    if observed is None or len({stratum.units for stratum in defined}) > 1:
        return None
    count = math.factorial(len(defined[0].units))
    if count > MAX_ENUMERATED:
        return None
    order_PN = np.array(list(permutations(range(len(defined[0].units)))))
    rho_SP = [rank_correlations(stratum.x_N, stratum.y_N[order_PN]) for stratum in defined]
    value_P = np.average(np.array(rho_SP), axis=0, weights=[stratum.weight for stratum in defined])
    largest = float((sign * value_P).max())
    largest_both = float(np.abs(value_P).max())
    return PermutationTest(
        p_paper=float((sign * value_P >= sign * observed - _TIE).mean()),
        p_two_sided=float((np.abs(value_P) >= abs(observed) - _TIE).mean()),
        permutations=count,
        smallest_p_paper=float((sign * value_P >= largest - _TIE).mean()),
        smallest_p_two_sided=float((np.abs(value_P) >= largest_both - _TIE).mean()),
        enumerated=True,
    )


def _enumerate_mean_rho(strata: Sequence[Stratum]) -> tuple[Array, Array] | None:
    """Distinct values of the mean ρ with the share of permutations of each; None if there are too many."""
    total = sum(stratum.weight for stratum in strata)
    value_V, share_V = np.zeros(1), np.ones(1)
    for stratum in sorted(strata, key=lambda stratum: len(stratum.x_N)):
        if math.factorial(len(stratum.y_N)) > MAX_ENUMERATED:
            return None
        order_PN = np.array(list(permutations(range(len(stratum.y_N)))))
        rho_P = rank_correlations(stratum.x_N, stratum.y_N[order_PN])
        rho_D, rho_share_D = _merge_equal_values(rho_P, np.full(len(rho_P), 1 / len(rho_P)))
        if len(value_V) * len(rho_D) > 10 * MAX_ENUMERATED:
            return None
        sum_VD = value_V[:, None] + stratum.weight / total * rho_D[None, :]
        value_V, share_V = _merge_equal_values(sum_VD.ravel(), (share_V[:, None] * rho_share_D[None, :]).ravel())
        if len(value_V) > MAX_ENUMERATED:
            return None
    return value_V, share_V


def _merge_equal_values(value_V: Array, share_V: Array) -> tuple[Array, Array]:
    """Merges values that are equal up to rounding and sums their shares."""
    order_V = np.argsort(value_V)
    value_V, share_V = value_V[order_V], share_V[order_V]
    first_V = np.concatenate(([0], np.flatnonzero(np.diff(value_V) > _TIE / 100) + 1))
    return value_V[first_V], np.add.reduceat(share_V, first_V)


def _draw_mean_rho(strata: Sequence[Stratum], seed: int) -> Array:
    """Mean ρ of `MONTE_CARLO` random permutations."""
    rng = np.random.default_rng(seed)
    total = sum(stratum.weight for stratum in strata)
    value_P = np.zeros(MONTE_CARLO)
    for stratum in strata:
        y_PN = rng.permuted(np.tile(stratum.y_N, (MONTE_CARLO, 1)), axis=1)
        value_P += stratum.weight / total * rank_correlations(stratum.x_N, y_PN)
    return value_P


def _smallest_p_values(strata: Sequence[Stratum], sign: int) -> tuple[float, float]:
    """Shares of the permutations with the most extreme mean ρ, in the paper's direction and in either direction."""
    total = sum(stratum.weight for stratum in strata)
    extremes = {}
    for direction in (sign, -sign):
        value, share = 0.0, 1.0
        for stratum in strata:
            rho, stratum_share = _extreme_rho(stratum, direction)
            value += stratum.weight / total * rho
            share *= stratum_share
        extremes[direction] = (abs(value), share)
    (paper_rho, paper_share), (opposite_rho, opposite_share) = extremes[sign], extremes[-sign]
    if math.isclose(paper_rho, opposite_rho, abs_tol=_TIE):
        return paper_share, paper_share + opposite_share
    return paper_share, paper_share if paper_rho > opposite_rho else opposite_share


def _extreme_rho(stratum: Stratum, sign: int) -> tuple[float, float]:
    """Largest (or smallest) ρ of a stratum, and the share of permutations of y that attain it.

    Sorting both sides attains it, and so does every order of y among units that are tied in x.
    """
    x_N, y_N = np.sort(stratum.x_N), np.sort(stratum.y_N)[::sign]
    rho = float(rank_correlations(x_N, y_N))
    _, first_B = np.unique(x_N, return_index=True)
    attaining = math.prod(count_permutations(block_N) for block_N in np.split(y_N, first_B[1:]))
    return rho, attaining / count_permutations(stratum.y_N)
