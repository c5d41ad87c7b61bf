"""Designs of a comparison: how rows are grouped and permuted, and the statistics that follow from sums over tiles.

Legend: N rows of x, M rows of y, D channels, G groups, B permutations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from vfmalign.client.messages.mmd import ComputeOptions, Estimator
from vfmalign.core.domain.errors import BadOption
from vfmalign.core.runtime.work_context import UNLIMITED, WorkContext
from vfmalign.mmd.comparison.samples import Sample
from vfmalign.mmd.engine.rows import FloatArray, IntArray, Rows
from vfmalign.mmd.engine.tiles import Matrix, PairedMatrix, PooledMatrix, Sums
from vfmalign.mmd.statistics import estimators, uncertainty
from vfmalign.mmd.statistics import permutations as drawing
from vfmalign.mmd.statistics.estimators import IndependentSums, PairedSums
from vfmalign.mmd.statistics.permutations import MIN_GROUPS, Permutations

# Rounding changes sums of equal kernel values by less than this share.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Statistics:
    """Values of one estimator: for the samples, for each permutation, and for the samples without each group in turn.

    Attributes:
        observed: MMD² of the samples.
        permuted_B: MMD² under each permutation.
        left_out: MMD² without each group in turn. One array for paired samples, two arrays for independent samples;
            empty if there is no interval.
        interval_absent_reason: why there is no interval; empty otherwise.
    """

    observed: float
    permuted_B: FloatArray
    left_out: tuple[FloatArray, ...]
    interval_absent_reason: str = ""


class Design(Protocol):
    """How x and y relate to each other. All layers of a comparison share the design."""

    x_order: IntArray | None
    y_order: IntArray | None
    block_sizes: tuple[int, ...]
    group_of: IntArray
    groups: int

    def matrix(self, pooled: Rows) -> Matrix:
        """Returns the matrix to sum.

        The matrix contains the rows of x in the order `x_order`, followed by the rows of y in the order `y_order`.
        """

    def permutations(self, count: int, seed: int, context: WorkContext) -> Permutations:
        """Draws permutations under which the samples are exchangeable if x and y have the same distribution."""

    def statistics(
        self, estimator: Estimator, sums: Sums, permutations: Permutations, context: WorkContext = UNLIMITED
    ) -> Statistics:
        """Computes the statistics from the sums of one pass over the matrix."""


def _sorted_groups(labels: Sequence[str], rows: int) -> tuple[IntArray | None, IntArray]:
    """Returns an order that makes rows of a group adjacent (None: no change), and the group of each ordered row."""
    if not labels:
        return None, np.arange(rows)
    _, group_of = np.unique(np.asarray(labels), return_inverse=True)
    order = np.argsort(group_of, kind="stable")
    return order.astype(np.int64), group_of[order].astype(np.int64)


def _pairs_of_different_groups(group_of_N: IntArray) -> float:
    """Returns the number of ordered pairs of rows from different groups."""
    return float(group_of_N.size**2 - np.square(np.bincount(group_of_N)).sum())


class PairedDesign:
    """Design for paired samples: row i of x and row i of y are the same case.

    The rows of a group are always swapped and left out together.
    """

    def __init__(self, x: Sample, y: Sample) -> None:
        order, self.group_of = _sorted_groups(x.groups or y.groups, x.rows)
        self.x_order = self.y_order = order
        self.block_sizes: tuple[int, ...] = (x.rows,)
        self.groups = int(self.group_of[-1]) + 1

    def matrix(self, pooled: Rows) -> Matrix:
        """Returns h(z_i, z_j) = ⟨φ(x_i)−φ(y_i), φ(x_j)−φ(y_j)⟩; a swap of pair i negates row and column i."""
        return PairedMatrix(*pooled.split(self.block_sizes[0]))

    def permutations(self, count: int, seed: int, context: WorkContext) -> Permutations:
        """Draws swaps within groups."""
        if self.groups < MIN_GROUPS:
            return drawing.no_permutations(
                self.groups, f"{self.groups} groups are too few for a test; it needs at least {MIN_GROUPS}"
            )
        return drawing.draw_swaps(self.groups, count, seed, context)

    def statistics(
        self, estimator: Estimator, sums: Sums, permutations: Permutations, context: WorkContext = UNLIMITED
    ) -> Statistics:
        """Computes statistics from sums of h: wᵀHw for swaps w; without group g, total − 2·(rows of g) + (within g)."""
        formula = estimators.PAIRED[estimator]
        rows_N = sums.rows_NP[:, 0]
        total, diagonal, n = rows_N.sum(), sums.diagonal_N.sum(), float(rows_N.size)

        def evaluate(total: ArrayLike, diagonal: ArrayLike, rows: ArrayLike) -> FloatArray:
            parts = (np.asarray(part, dtype=np.float64) for part in (total, diagonal, rows))
            return formula(PairedSums(*parts))

        observed = float(evaluate(total, diagonal, n))
        permuted_B = evaluate(sums.quadratic_B, diagonal, n)
        if self.groups < MIN_GROUPS:
            reason = f"{self.groups} groups are too few for an interval; it needs at least {MIN_GROUPS}"
            return Statistics(observed, permuted_B, (), reason)
        left_out_G = evaluate(
            total - 2.0 * np.bincount(self.group_of, rows_N) + sums.within_G,
            diagonal - np.bincount(self.group_of, sums.diagonal_N),
            n - np.bincount(self.group_of),
        )
        reason = uncertainty.BIASED if estimator == "biased" else ""
        if not reason and self.groups < rows_N.size:
            unbiased = (total - sums.within_G.sum()) / _pairs_of_different_groups(self.group_of)
            reason = uncertainty.bias_reason(observed, unbiased, (left_out_G,), _ROUNDING * abs(diagonal) / n)
        return Statistics(observed, permuted_B, () if reason else (left_out_G,), reason)


class IndependentDesign:
    """Design for independent samples. Permutations assign whole groups to x or y."""

    def __init__(self, x: Sample, y: Sample) -> None:
        self.x_order, group_of_x = _sorted_groups(x.groups, x.rows)
        self.y_order, group_of_y = _sorted_groups(y.groups, y.rows)
        self.block_sizes: tuple[int, ...] = (x.rows, y.rows)
        self._groups_x, self._groups_y = int(group_of_x[-1]) + 1, int(group_of_y[-1]) + 1
        self.groups = self._groups_x + self._groups_y
        self.group_of = np.concatenate([group_of_x, group_of_y + self._groups_x])

    def matrix(self, pooled: Rows) -> Matrix:
        """Returns the kernel matrix K over the pooled rows."""
        return PooledMatrix(pooled)

    def permutations(self, count: int, seed: int, context: WorkContext) -> Permutations:
        """Permutes the groups' labels. A sample keeps its number of groups; its number of rows may change."""
        if self.groups < MIN_GROUPS:
            reason = f"{self.groups} groups in both samples are too few for a test; it needs at least {MIN_GROUPS}"
            return drawing.no_permutations(self.groups, reason)
        if min(self._groups_x, self._groups_y) < 2:
            return drawing.no_permutations(self.groups, "a sample has one group, but a test needs two in each sample")
        return drawing.draw_permutations(self._groups_x, self._groups_y, count, seed, context)

    def statistics(
        self, estimator: Estimator, sums: Sums, permutations: Permutations, context: WorkContext = UNLIMITED
    ) -> Statistics:
        """Computes statistics from sums of k over the pooled rows."""
        formula = estimators.INDEPENDENT[estimator]
        n = self.block_sizes[0]
        observed = IndependentSums(
            xx=sums.rows_NP[:n, 0].sum(),
            yy=sums.rows_NP[n:, 1].sum(),
            xy=sums.rows_NP[:n, 1].sum(),
            xx_diagonal=sums.diagonal_N[:n].sum(),
            yy_diagonal=sums.diagonal_N[n:].sum(),
            rows_x=np.asarray(float(n)),
            rows_y=np.asarray(float(self.block_sizes[1])),
        )
        value, permuted_B = float(formula(observed)), formula(self._permuted(sums, permutations, context))
        if min(self._groups_x, self._groups_y) < MIN_GROUPS:
            reason = (
                f"{self._groups_x} and {self._groups_y} groups are too few for an interval; "
                f"each sample needs at least {MIN_GROUPS}"
            )
            return Statistics(value, permuted_B, (), reason)
        left_out = tuple(formula(part) for part in self._left_out(sums, observed))
        reason = uncertainty.BIASED if estimator == "biased" else ""
        if not reason and self.groups < sum(self.block_sizes):
            rounding = _ROUNDING * float(np.abs(sums.diagonal_N).mean())
            reason = uncertainty.bias_reason(value, self._unbiased(sums, observed), left_out, rounding)
        return Statistics(value, permuted_B, () if reason else left_out, reason)

    def _permuted(self, sums: Sums, permutations: Permutations, context: WorkContext) -> IndependentSums:
        """Returns the sums for indicators a of x. The indicator of y is 1 − a, so aᵀK1 and 1ᵀK1 suffice for y."""
        row_sums_G = np.bincount(self.group_of, sums.rows_NP.sum(axis=1))
        diagonal_G = np.bincount(self.group_of, sums.diagonal_N)
        of_group_3G = np.stack([row_sums_G, diagonal_G, np.bincount(self.group_of).astype(np.float64)])
        from_x_B, xx_diagonal_B, rows_x_B = drawing.weighted_sums(of_group_3G, permutations, context)
        xx_B = sums.quadratic_B
        return IndependentSums(
            xx=xx_B,
            yy=row_sums_G.sum() - 2.0 * from_x_B + xx_B,
            xy=from_x_B - xx_B,
            xx_diagonal=xx_diagonal_B,
            yy_diagonal=diagonal_G.sum() - xx_diagonal_B,
            rows_x=rows_x_B,
            rows_y=sum(self.block_sizes) - rows_x_B,
        )

    def _unbiased(self, sums: Sums, observed: IndependentSums) -> float:
        """Returns eq. (3) with means over pairs of rows from different groups, which are independent."""
        n, g = self.block_sizes[0], self._groups_x
        within_x = (observed.xx - sums.within_G[:g].sum()) / _pairs_of_different_groups(self.group_of[:n])
        within_y = (observed.yy - sums.within_G[g:].sum()) / _pairs_of_different_groups(self.group_of[n:] - g)
        return float(within_x + within_y - 2.0 * observed.xy / (observed.rows_x * observed.rows_y))

    def _left_out(self, sums: Sums, observed: IndependentSums) -> tuple[IndependentSums, IndependentSums]:
        """Returns the sums without each group of x, and without each group of y."""
        to_x_G = np.bincount(self.group_of, sums.rows_NP[:, 0])
        to_y_G = np.bincount(self.group_of, sums.rows_NP[:, 1])
        diagonal_G, rows_G = np.bincount(self.group_of, sums.diagonal_N), np.bincount(self.group_of)
        of_x, of_y = slice(0, self._groups_x), slice(self._groups_x, None)
        without_x = IndependentSums(
            xx=observed.xx - 2.0 * to_x_G[of_x] + sums.within_G[of_x],
            yy=observed.yy,
            xy=observed.xy - to_y_G[of_x],
            xx_diagonal=observed.xx_diagonal - diagonal_G[of_x],
            yy_diagonal=observed.yy_diagonal,
            rows_x=observed.rows_x - rows_G[of_x],
            rows_y=observed.rows_y,
        )
        without_y = IndependentSums(
            xx=observed.xx,
            yy=observed.yy - 2.0 * to_y_G[of_y] + sums.within_G[of_y],
            xy=observed.xy - to_x_G[of_y],
            xx_diagonal=observed.xx_diagonal,
            yy_diagonal=observed.yy_diagonal - diagonal_G[of_y],
            rows_x=observed.rows_x,
            rows_y=observed.rows_y - rows_G[of_y],
        )
        return without_x, without_y


class WildBootstrapDesign(PairedDesign):
    """Design for independent samples of equal size. Random signs of row pairs replace permutations.

    If x and y have the same distribution, Σ_ij s_i s_j h(z_i, z_j) with independent signs has the distribution of the
    statistic (Fromont et al., COLT 2012; Chwialkowski, Sejdinovic, Gretton, NIPS 2014). The wild bootstrap takes a
    quarter of the time of permutations.
    """

    def __init__(self, x: Sample, y: Sample) -> None:
        if x.rows != y.rows or any(len(set(sample.groups)) not in (0, sample.rows) for sample in (x, y)):
            raise BadOption(
                f"a wild bootstrap needs equal row counts and one row per group, got {x.rows} and {y.rows} rows",
                field="test.method",
                remedy="use permutations, which support groups of any size",
            )
        super().__init__(Sample(x.name, x.layers), Sample(y.name, y.layers))


def create_design(x: Sample, y: Sample, options: ComputeOptions) -> Design:
    """Creates the design that fits the pairing and the test options.

    Raises:
        BadOption: a wild bootstrap is requested for samples of different sizes or with groups of several rows.
    """
    if options.pairing == "paired":
        return PairedDesign(x, y)
    return WildBootstrapDesign(x, y) if options.test.method == "wild_bootstrap" else IndependentDesign(x, y)
