"""Rank correlation inside strata: its mean over strata, and a test that permutes inside strata alone.

Knows pairs of numbers. Knows nothing of models, tasks or reports. Axes: N units of one stratum, P permutations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import numpy.typing as npt
import scipy

from vfmalign.core.domain.artifacts import Record

MAX_ENUMERATED = 100_000
"""Distinct values up to which the distribution is enumerated; also arrangements of one stratum."""
MONTE_CARLO = 20_000
_TIE = 1e-9

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Stratum:
    """Pairs that may be compared with each other: the models of one task, or the tasks of one model."""

    name: str
    units: tuple[str, ...]
    x_N: Array
    y_N: Array

    @property
    def weight(self) -> float:
        """N − 1: the inverse of the variance that Spearman's ρ has where nothing is related."""
        return len(self.x_N) - 1.0

    @property
    def rho(self) -> float | None:
        """Spearman's ρ with mid-ranks; None below two pairs, or where all of one side are tied."""
        found = float(rank_correlations(self.x_N, self.y_N)) if len(self.x_N) > 1 else math.nan
        return None if math.isnan(found) else found


class PermutationTest(Record):
    """How often chance alone gives a mean ρ as extreme.

    Attributes:
        p_paper: one-sided, in the direction that the paper reports.
        p_two_sided: of |ρ|.
        permutations: arrangements inside strata that differ, ties counted once: Π N!/Π t!.
        smallest_p_paper, smallest_p_two_sided: what a perfect order would have given, ties considered.
        enumerated: True where p is the exact share; False where it is (1 + #)/(1 + B).
        drawn: B, None where enumerated.
    """

    p_paper: float
    p_two_sided: float
    permutations: int
    smallest_p_paper: float
    smallest_p_two_sided: float
    enumerated: bool
    drawn: int | None = None


def rank_correlations(x_PN: Array, y_PN: Array) -> Array:
    """Spearman's ρ along the last axis, the others broadcast.

    Infinite values rank last; NaN where all of one side are tied.
    """
    x_PN, y_PN = (_centred(scipy.stats.rankdata(side, axis=-1)) for side in (x_PN, y_PN))
    with np.errstate(invalid="ignore", divide="ignore"):
        rho_P: Array = (x_PN * y_PN).sum(-1) / np.sqrt((x_PN * x_PN).sum(-1) * (y_PN * y_PN).sum(-1))
    return rho_P


def _centred(value_PN: Array) -> Array:
    centred_PN: Array = value_PN - value_PN.mean(axis=-1, keepdims=True)
    return centred_PN


def usable(strata: Sequence[Stratum]) -> list[Stratum]:
    """Those in which a rank correlation is defined."""
    return [stratum for stratum in strata if stratum.rho is not None]


def mean_correlation(strata: Sequence[Stratum]) -> float | None:
    """Mean of the strata's ρ, each weighing N − 1; None where it is defined in none."""
    kept = usable(strata)
    if not kept:
        return None
    return float(np.average([stratum.rho or 0.0 for stratum in kept], weights=[stratum.weight for stratum in kept]))


def arrangements(y_N: Array) -> int:
    """Orders of y that differ: N!/Π t! over its groups of ties."""
    _, ties = np.unique(y_N, return_counts=True)
    return math.factorial(len(y_N)) // math.prod(math.factorial(int(t)) for t in ties)


def permutation_test(strata: Sequence[Stratum], *, sign: int, seed: int) -> PermutationTest | None:
    """Tests the mean ρ by permuting y inside every stratum.

    The distribution of the weighted sum is enumerated stratum by stratum and equal sums are merged, so that it is exact
    also where the product of arrangements is large; where too many sums differ, or one stratum has too many
    arrangements, `MONTE_CARLO` seeded draws take its place, with p = (1 + #)/(1 + B).

    Args:
        strata: their pairs.
        sign: of ρ as the paper reports it: −1 or 1.
        seed: of the draws.

    Returns:
        None where ρ is defined in no stratum.
    """
    kept = usable(strata)
    observed = mean_correlation(kept)
    if observed is None:
        return None
    smallest_paper, smallest_both = _smallest(kept, sign)
    exact = _enumerate(kept)
    if exact is not None:
        value_V, share_V = exact
        paper = float(share_V[sign * value_V >= sign * observed - _TIE].sum())
        both = float(share_V[np.abs(value_V) >= abs(observed) - _TIE].sum())
    else:
        value_V = _draw(kept, seed)
        paper = (1 + int((sign * value_V >= sign * observed - _TIE).sum())) / (1 + MONTE_CARLO)
        both = (1 + int((np.abs(value_V) >= abs(observed) - _TIE).sum())) / (1 + MONTE_CARLO)
        smallest_paper = max(smallest_paper, 1 / (1 + MONTE_CARLO))
        smallest_both = max(smallest_both, 1 / (1 + MONTE_CARLO))
    return PermutationTest(
        p_paper=min(1.0, paper),
        p_two_sided=min(1.0, both),
        permutations=math.prod(arrangements(stratum.y_N) for stratum in kept),
        smallest_p_paper=smallest_paper,
        smallest_p_two_sided=smallest_both,
        enumerated=exact is not None,
        drawn=None if exact is not None else MONTE_CARLO,
    )


def common_test(strata: Sequence[Stratum], *, sign: int) -> PermutationTest | None:
    """The same test with one permutation for all strata: its units are the models (or tasks), not the cells.

    Models that keep their order from task to task make the strata depend on each other, which permuting each by itself
    does not see. None where strata hold different units or have more than `MAX_ENUMERATED` permutations.
    """
    kept = usable(strata)
    observed = mean_correlation(kept)
    if observed is None or len({stratum.units for stratum in kept}) > 1:
        return None
    count = math.factorial(len(kept[0].units))
    if count > MAX_ENUMERATED:
        return None
    order_PN = np.array(list(permutations(range(len(kept[0].units)))))
    rho_SP = [rank_correlations(stratum.x_N, stratum.y_N[order_PN]) for stratum in kept]
    value_P = np.average(np.array(rho_SP), axis=0, weights=[stratum.weight for stratum in kept])
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


def _enumerate(strata: Sequence[Stratum]) -> tuple[Array, Array] | None:
    """Values of the mean ρ with the share of permutations that give each; None where there are too many."""
    total = sum(stratum.weight for stratum in strata)
    value_V, share_V = np.zeros(1), np.ones(1)
    for stratum in sorted(strata, key=lambda stratum: len(stratum.x_N)):
        if math.factorial(len(stratum.y_N)) > MAX_ENUMERATED:
            return None
        order_PN = np.array(list(permutations(range(len(stratum.y_N)))))
        rho_P = rank_correlations(stratum.x_N, stratum.y_N[order_PN])
        one_D, one_share_D = _merge(rho_P, np.full(len(rho_P), 1 / len(rho_P)))
        if len(value_V) * len(one_D) > 10 * MAX_ENUMERATED:
            return None
        sum_VD = value_V[:, None] + stratum.weight / total * one_D[None, :]
        value_V, share_V = _merge(sum_VD.ravel(), (share_V[:, None] * one_share_D[None, :]).ravel())
        if len(value_V) > MAX_ENUMERATED:
            return None
    return value_V, share_V


def _merge(value_V: Array, share_V: Array) -> tuple[Array, Array]:
    """Equal values become one, with the sum of their shares; equal up to rounding."""
    order_V = np.argsort(value_V)
    value_V, share_V = value_V[order_V], share_V[order_V]
    first_V = np.concatenate(([0], np.flatnonzero(np.diff(value_V) > _TIE / 100) + 1))
    return value_V[first_V], np.add.reduceat(share_V, first_V)


def _draw(strata: Sequence[Stratum], seed: int) -> Array:
    rng = np.random.default_rng(seed)
    total = sum(stratum.weight for stratum in strata)
    value_P = np.zeros(MONTE_CARLO)
    for stratum in strata:
        y_PN = rng.permuted(np.tile(stratum.y_N, (MONTE_CARLO, 1)), axis=1)
        value_P += stratum.weight / total * rank_correlations(stratum.x_N, y_PN)
    return value_P


def _smallest(strata: Sequence[Stratum], sign: int) -> tuple[float, float]:
    """Shares of the arrangements that give the most extreme mean ρ, in the paper's direction and in either."""
    total = sum(stratum.weight for stratum in strata)
    ends = {}
    for way in (sign, -sign):
        value, share = 0.0, 1.0
        for stratum in strata:
            rho, one = _extreme(stratum, way)
            value += stratum.weight / total * rho
            share *= one
        ends[way] = (abs(value), share)
    (here, share), (there, other) = ends[sign], ends[-sign]
    if math.isclose(here, there, abs_tol=_TIE):
        return share, share + other
    return share, share if here > there else other


def _extreme(stratum: Stratum, sign: int) -> tuple[float, float]:
    """The largest (or smallest) ρ of a stratum, and the share of arrangements of y that give it.

    Both sides sorted give it; so does every order of y among the units that tie in x.
    """
    x_N, y_N = np.sort(stratum.x_N), np.sort(stratum.y_N)[::sign]
    rho = float(rank_correlations(x_N, y_N))
    _, first_B = np.unique(x_N, return_index=True)
    ways = math.prod(arrangements(block_N) for block_N in np.split(y_N, first_B[1:]))
    return rho, ways / arrangements(stratum.y_N)
