"""Estimators of MMD² as functions of sums of kernel values.

Source: Gretton, Borgwardt, Rasch, Schölkopf, Smola: A Kernel Two-Sample Test, JMLR 13 (2012) 723–773.
Every formula is elementwise. The same code therefore computes observed, permuted and leave-one-out values. Unbiased
estimates may be negative and are never clipped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vfmalign.client.messages.mmd import Estimator, Pairing, TestMethod
from vfmalign.core.domain.errors import BadOption

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class PairedSums:
    """Sums of h(z_i, z_j) over pairs z_i = (x_i, y_i). Each array contains one entry per statistic.

    Attributes:
        total: Σ_ij h(z_i, z_j), including the diagonal.
        diagonal: Σ_i h(z_i, z_i).
        rows: number n of pairs.
    """

    total: FloatArray
    diagonal: FloatArray
    rows: FloatArray


@dataclass(frozen=True)
class IndependentSums:
    """Sums of k over two independent samples. Each array contains one entry per statistic.

    Attributes:
        xx, yy, xy: Σ_ij k(x_i, x_j), Σ_ij k(y_i, y_j) and Σ_ij k(x_i, y_j), including the diagonals.
        xx_diagonal, yy_diagonal: Σ_i k(x_i, x_i) and Σ_i k(y_i, y_i).
        rows_x, rows_y: numbers n and m of rows.
    """

    xx: FloatArray
    yy: FloatArray
    xy: FloatArray
    xx_diagonal: FloatArray
    yy_diagonal: FloatArray
    rows_x: FloatArray
    rows_y: FloatArray


def biased_paired(sums: PairedSums) -> FloatArray:
    """V-statistic with n = m, eq. (5): (1/n²) Σ_ij h(z_i, z_j). The statistic is negative only through rounding."""
    return sums.total / sums.rows**2


def unbiased_paired(sums: PairedSums) -> FloatArray:
    """U-statistic over pairs, Lemma 6, eq. (4): (1/(n(n − 1))) Σ_{i≠j} h(z_i, z_j).

    The statistic excludes k(x_i, y_i). Because of the pairing, this value is larger than k(x_i, y_j) of independent
    rows. The statistic is unbiased if the pairs are independent. The statistic includes pairs from the same group, but
    tests and intervals treat a group as one unit.
    """
    return (sums.total - sums.diagonal) / (sums.rows * (sums.rows - 1.0))


def biased_independent(sums: IndependentSums) -> FloatArray:
    """V-statistic, eq. (5): Σk(x,x')/n² + Σk(y,y')/m² − 2 Σk(x,y)/(nm)."""
    n, m = sums.rows_x, sums.rows_y
    return sums.xx / n**2 + sums.yy / m**2 - 2.0 * sums.xy / (n * m)


def unbiased_independent(sums: IndependentSums) -> FloatArray:
    """U-statistic, eq. (3): Σ_{i≠j}k(x_i,x_j)/(n(n−1)) + Σ_{i≠j}k(y_i,y_j)/(m(m−1)) − 2Σk(x_i,y_j)/(nm).

    The cross term includes i = j. The estimator is therefore unbiased only for independent samples.
    """
    n, m = sums.rows_x, sums.rows_y
    within_x = (sums.xx - sums.xx_diagonal) / (n * (n - 1.0))
    within_y = (sums.yy - sums.yy_diagonal) / (m * (m - 1.0))
    return within_x + within_y - 2.0 * sums.xy / (n * m)


PAIRED: dict[Estimator, Callable[[PairedSums], FloatArray]] = {
    "biased": biased_paired,
    "unbiased_paired": unbiased_paired,
}
INDEPENDENT: dict[Estimator, Callable[[IndependentSums], FloatArray]] = {
    "biased": biased_independent,
    "unbiased_independent": unbiased_independent,
}


def get_default(pairing: Pairing, method: TestMethod) -> Estimator:
    """Returns the unbiased estimator that fits a pairing and a test.

    A wild bootstrap flips the signs of h(z_i, z_j) and therefore needs an estimator over pairs. The estimator of Lemma
    6 is also unbiased for independent samples of equal size.
    """
    return "unbiased_paired" if _is_over_pairs(pairing, method) else "unbiased_independent"


def check(pairing: Pairing, estimator: Estimator | None, method: TestMethod) -> None:
    """Checks that an estimator is valid for a pairing and a test. None means the default estimator.

    Raises:
        BadOption: the estimator is not valid for this pairing or test.
    """
    if estimator is None or (estimator == "random_fourier" and method == "permutation"):
        return
    over_pairs = _is_over_pairs(pairing, method)
    if pairing == "paired" and estimator == "unbiased_independent":
        raise BadOption(
            "the estimator for independent samples is biased for pairs, because its cross term includes k(x_i, y_i)",
            field="estimator",
            remedy="use `unbiased_paired` (ESTIMATOR_UNBIASED_PAIRED) or `biased` (ESTIMATOR_BIASED)",
        )
    if over_pairs and estimator not in PAIRED:
        raise BadOption(
            f"the wild bootstrap flips signs of pairs, but `{estimator}` is not a sum over pairs",
            field="estimator",
            remedy="use `unbiased_paired` (ESTIMATOR_UNBIASED_PAIRED) or `biased` (ESTIMATOR_BIASED), or test by "
            "permutations",
        )
    if not over_pairs and estimator not in INDEPENDENT:
        raise BadOption(
            "the estimator for paired samples needs rows of the same cases, but the samples are independent",
            field="estimator",
            remedy="use `unbiased_independent` (ESTIMATOR_UNBIASED_INDEPENDENT) or `biased` (ESTIMATOR_BIASED), or set "
            "`pairing` to paired",
        )


def _is_over_pairs(pairing: Pairing, method: TestMethod) -> bool:
    return pairing == "paired" or method == "wild_bootstrap"


def min_rows(estimator: Estimator) -> int:
    """Returns the smallest number of rows per sample for which the estimator is defined."""
    return 1 if estimator == "biased" else 2
