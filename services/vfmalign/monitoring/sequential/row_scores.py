"""Scores of single rows, and kernel values between rows.

The kernel is k(x, y) = exp(−‖x − y‖²/h). Kernel values are rounded to multiples of 2⁻²⁰ (about 1e-6). Sums of such
values in float64 have no rounding error. A sum of kernel values therefore does not depend on the order of its terms.
Identical rows have identical sums.

Legend: the axes of arrays are D channels, S scoring rows, M rows, N rows and T bins.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

LARGEST_VALUE = 1e4
"""Limit at which standardised values are clipped, in standard deviations, so that squared distances stay precise."""
BINS = 32
"""Bins of the values of a channel."""
_STEPS = np.float32(2**20)


@dataclass(frozen=True)
class RowScorer:
    """Scores rows by comparing them with the scoring rows of a reference.

    A score depends only on the row itself and the scoring rows.

    Attributes:
        mean_D: mean of the scoring rows.
        scale_D: scale of each channel.
        scoring_SD: standardised scoring rows.
        bandwidth: h, the median of the squared distances between the standardised scoring rows.
    """

    mean_D: Array
    scale_D: Array
    scoring_SD: Array
    bandwidth: float

    @cached_property
    def _squares_S(self) -> Array:
        return get_squares(self.scoring_SD)

    @cached_property
    def edges_DT(self) -> Array:
        """Lower ends of the bins of each channel.

        The first lower end is −∞; the others are quantiles of the scoring rows.
        """
        quantiles_TD = np.quantile(self.scoring_SD, np.arange(1, BINS) / BINS, axis=0)
        edges: Array = np.concatenate([np.full((1, len(self.mean_D)), -np.inf), quantiles_TD]).T
        return np.ascontiguousarray(edges)

    def standardise(self, row_D: Array) -> Array:
        """Returns the standardised row: the row minus the mean of the scoring rows, in standard deviations."""
        with np.errstate(over="ignore"):
            z_D: Array = np.clip((row_D - self.mean_D) / self.scale_D, -LARGEST_VALUE, LARGEST_VALUE)
        return z_D

    def score(self, z_D: Array) -> tuple[float, float]:
        """Returns two numbers: the score of a standardised row, and the sum of its kernel values with the scoring rows.

        The score is −ln Σ exp(−d²/h) over the scoring rows. The score is large if the row is far from all scoring rows.
        One row is scored at a time, because a matrix product of several rows may change the last bits. The last bits
        also differ between kinds of machines, so the score is rounded. Identical rows then have equal scores on all
        machines.
        """
        products_S = self.scoring_SD @ z_D
        distances_S = np.maximum(get_squares(z_D[None]) + self._squares_S - 2.0 * products_S, 0.0)
        exponents_S = distances_S / -self.bandwidth
        largest = exponents_S.max()
        score = -(largest + np.log(np.exp(exponents_S - largest).sum()))
        return float(np.rint(score * _STEPS) / _STEPS), float(_round_kernel(exponents_S).sum())

    def get_kernel(self, a_MD: Array, b_ND: Array) -> Array:
        """Returns the rounded kernel values [M, N] between standardised rows."""
        exponents_MN = get_squared_distances(a_MD, b_ND)
        exponents_MN /= -self.bandwidth
        return _round_kernel(exponents_MN)


def get_squares(rows_ND: Array) -> Array:
    """Returns the squared length of each row."""
    squares: Array = np.einsum("nd,nd->n", rows_ND, rows_ND)
    return squares


def get_squared_distances(a_MD: Array, b_ND: Array) -> Array:
    """Returns the squared distances [M, N]. No distance is negative."""
    distances: Array = a_MD @ b_ND.T
    distances *= -2.0  # in place, because memory access takes most of the time
    distances += get_squares(a_MD)[:, None]
    distances += get_squares(b_ND)
    return np.maximum(distances, 0.0, out=distances)


def _round_kernel(exponents: Array) -> Array:
    """Returns the rounded exponentials, computed in float32, for which numpy has vector instructions."""
    kernel = exponents.astype(np.float32)
    np.exp(kernel, out=kernel)
    kernel *= _STEPS
    np.rint(kernel, out=kernel)
    kernel /= _STEPS
    return kernel.astype(np.float64)
