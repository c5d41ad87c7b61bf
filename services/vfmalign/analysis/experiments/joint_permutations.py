"""Permutation test of rank correlations. Each permutation reorders the units in the same way in all strata.

If the models have a similar order in all tasks, the tasks depend on each other. A test that permutes each task
separately ignores this dependence and therefore finds relations too often. A joint permutation keeps the values of a
unit together. The axes of the arrays are P permutations, N units, S strata and K numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Self

import numpy as np
import numpy.typing as npt

from vfmalign.analysis.experiments.rank_correlation import Stratum, get_centred_ranks
from vfmalign.analysis.experiments.strata import MIN_UNITS, SIGNIFICANCE_LEVEL
from vfmalign.core.domain.record import Record

MAX_ENUMERATED_UNITS = 8
"""Largest number of units for which all orders are enumerated; 8! = 40,320."""
DRAWS = 20_000
"""Number of orders that are drawn if there are more than `MAX_ENUMERATED_UNITS` units."""
_TIE = 1e-9
"""Rank correlations that differ by less are considered equal, because rounding must not separate equal values."""

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class JointPermutations:
    """Orders of the units (models or tasks). Each order is used in all strata at once.

    Attributes:
        order_PN: the orders.
        enumerated: True if the orders are all N! orders; False if the orders are random draws.
    """

    order_PN: npt.NDArray[np.int64]
    enumerated: bool

    @classmethod
    def create(cls, units: int, seed: int) -> Self:
        """Enumerates all orders. For more than `MAX_ENUMERATED_UNITS` units, draws random orders with the seed."""
        if units <= MAX_ENUMERATED_UNITS:
            return cls(np.array(list(permutations(range(units)))), enumerated=True)
        return cls.draw(units, DRAWS, np.random.default_rng(seed))

    @classmethod
    def draw(cls, units: int, draws: int, rng: np.random.Generator) -> Self:
        """Draws random orders."""
        return cls(rng.permuted(np.tile(np.arange(units), (draws, 1)), axis=1), enumerated=False)

    def __len__(self) -> int:
        return len(self.order_PN)

    def apply(self, value_NS: Array) -> Array:
        """Applies each order to the units of all strata. Returns an array (P, N, S)."""
        return value_NS[self.order_PN]

    def get_p_value(self, value_P: Array, observed: float) -> float:
        """Returns the p-value: the probability that an order gives a statistic at least as large as the observed one.

        If all orders are enumerated, the p-value is the share of orders with such a statistic. If P orders are drawn,
        the p-value is (1 + #)/(1 + P), where # is the number of such orders.
        """
        extreme = int((value_P >= observed - _TIE).sum())
        return extreme / len(self) if self.enumerated else (1 + extreme) / (1 + len(self))

    def get_threshold(self, value_P: Array) -> float | None:
        """Smallest value of a statistic whose p-value is at most `SIGNIFICANCE_LEVEL`.

        Returns None if no value reaches this level.
        """
        threshold = None
        for value in np.unique(value_P)[::-1]:
            if self.get_p_value(value_P, float(value)) > SIGNIFICANCE_LEVEL:
                break
            threshold = float(value)
        return threshold


class PermutationTest(Record):
    """Result of a permutation test: how often a random order gives a mean ρ as extreme as the observed one.

    Attributes:
        p_paper: one-sided p, in the direction that the paper reports.
        p_two_sided: p of |ρ|.
        smallest_p_two_sided: smallest `p_two_sided` that any order can reach; large if many values are tied.
        threshold: smallest |ρ| that has a `p_two_sided` of at most `SIGNIFICANCE_LEVEL`; None if no order reaches this
            level.
        permutations: number of orders that were evaluated.
        enumerated: True if every possible order was evaluated.
    """

    p_paper: float
    p_two_sided: float
    smallest_p_two_sided: float
    threshold: float | None
    permutations: int
    enumerated: bool


def run_joint_permutation_test(strata: Sequence[Stratum], *, sign: int, seed: int) -> PermutationTest | None:
    """Tests the mean ρ over strata that have the same units: each permutation reorders y in the same way in all strata.

    Args:
        strata: strata with the same units, each with a defined ρ.
        sign: sign of ρ in the paper's direction, −1 or 1.
        seed: seed of the draws.

    Returns:
        The test result, or None if there is no stratum or there are fewer than `MIN_UNITS` units.
    """
    if not strata or len(strata[0].units) < MIN_UNITS:
        return None
    x_NS = np.stack([stratum.x_N for stratum in strata], axis=1)
    y_NS = np.stack([stratum.y_N for stratum in strata], axis=1)
    return run_test(x_NS, y_NS, JointPermutations.create(len(x_NS), seed), sign=sign)


def run_test(x_NS: Array, y_NS: Array, orders: JointPermutations, *, sign: int) -> PermutationTest:
    """Tests the mean ρ over strata with the given orders of the units; see `run_joint_permutation_test`."""
    rho_K, rho_PK = permute_correlations(x_NS[np.newaxis], y_NS, orders)
    rho, rho_P = float(rho_K[0]), rho_PK[:, 0]
    size_P = np.abs(rho_P)
    return PermutationTest(
        p_paper=orders.get_p_value(sign * rho_P, sign * rho),
        p_two_sided=orders.get_p_value(size_P, abs(rho)),
        smallest_p_two_sided=orders.get_p_value(size_P, max(abs(rho), float(size_P.max()))),
        threshold=orders.get_threshold(size_P),
        permutations=len(orders),
        enumerated=orders.enumerated,
    )


def permute_correlations(x_KNS: Array, y_NS: Array, orders: JointPermutations) -> tuple[Array, Array]:
    """Correlates each number with y.

    Returns the mean ρ over strata: the observed values (K), and the values for each order of y (P, K).

    All numbers share the orders. If all values of a number are tied in a stratum, the mean ρ of this number excludes
    the stratum.
    """
    x_KNS, y_NS = normalise_ranks(x_KNS), normalise_ranks(y_NS)
    strata_K = (x_KNS.any(axis=1) & y_NS.any(axis=0)).sum(axis=-1)
    weight_KNS = x_KNS / np.maximum(strata_K, 1)[:, np.newaxis, np.newaxis]
    weight_KM = weight_KNS.reshape(len(weight_KNS), -1)
    return weight_KM @ y_NS.ravel(), orders.apply(y_NS).reshape(len(orders), -1) @ weight_KM.T


def normalise_ranks(value_NS: Array) -> Array:
    """Mid-ranks of the units in each stratum, centred and scaled to length 1.

    If all values are tied, the mid-ranks are zero.

    The product of two columns is Spearman's ρ.
    """
    rank_NS = get_centred_ranks(value_NS.swapaxes(-1, -2)).swapaxes(-1, -2)
    length_S = np.sqrt((rank_NS * rank_NS).sum(axis=-2, keepdims=True))
    normalised_NS: Array = rank_NS / np.where(length_S > 0, length_S, math.inf)
    return normalised_NS
