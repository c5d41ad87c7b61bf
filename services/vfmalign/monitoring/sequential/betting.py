"""Converts p-values, given as cells, to evidence: test martingales and Shiryaev–Roberts statistics.

The value of a bet on a cell is the mean of θ·u^(θ − 1) over the cell. The integral of this function over [0, 1] is 1.
Small p-values increase the stake, and large p-values reduce it (Vovk et al., COPA 2021). Each statistic combines the
bets of all θ. If unusually small scores also count as drift, each statistic also includes bets on the mirrored cell. A
statistic has K streams of cells. All streams receive their next cell at the same time. For channels, there is one
stream per channel. For rows and blocks, K is 1.

Legend: the axes of arrays are S bets, E schedules and K streams.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

THETAS = np.array([0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.85])
CHANNEL_THETAS = np.array([0.2, 0.35, 0.5, 0.7])
"""θ for channels, for shifts that a single value hardly shows; only a few, because each is computed per channel."""
CONSTANT_SHARES = (1 / 20, 1 / 100, 1 / 500)
"""Shares of the reserve that three schedules stake at every cell, for changes after about 20, 100 and 500 cells."""
SLOW_SCHEDULE = 500.0
"""Cells after which the fourth schedule has staked 1 − 1/√2 of its reserve: it keeps (1 + n/500)^(−½) after n."""
_LARGEST_EXPONENT = 256


def get_bets(lower: ArrayLike, upper: ArrayLike, *, mirrored: bool, thetas: Array = THETAS) -> Array:
    """Returns the means [S, K] of θ·u^(θ − 1), for each θ and each cell. A cell extends from `lower` to `upper`.

    If `mirrored` is true, the means over the mirrored cells are appended.
    """
    lower_K, upper_K = np.atleast_1d(lower), np.atleast_1d(upper)
    bets = _get_means(lower_K, upper_K, thetas)
    return np.concatenate([bets, _get_means(1.0 - upper_K, 1.0 - lower_K, thetas)]) if mirrored else bets


def _get_means(lower_K: Array, upper_K: Array, thetas: Array) -> Array:
    with np.errstate(divide="ignore"):  # log(0) is −∞, and the power is then 0
        powers = [np.exp(thetas[:, None] * np.log(ends_K)) for ends_K in (upper_K, lower_K)]
    means: Array = (powers[0] - powers[1]) / (upper_K - lower_K)
    return means


def get_shares(cells: int) -> Array:
    """Returns, for each schedule, the share of its reserve that it stakes at cell number `cells`, counted from 0."""
    slow = 1.0 - math.sqrt((SLOW_SCHEDULE + cells) / (SLOW_SCHEDULE + cells + 1.0))
    return np.array([*CONSTANT_SHARES, slow])


class Martingale:
    """Mixture of bets. Four schedules start new bets at every cell. Each of K streams has its own mixture.

    The reserve σ of each schedule is 1 at first. At each cell, the schedule stakes a share η of σ, divided equally
    among the S bets: a ← (a + σ·η/S)·b, σ ← σ·(1 − η). The martingale is the mean of σ + Σ a over the schedules. The
    martingale is 1 at first. Without drift, its expectation stays 1.

    Attributes:
        cells: number of cells that each stream has received.
        reserve_E: σ of each schedule, divided by 2^exponent.
        stakes_ESK: a of each schedule, bet and stream, divided by 2^exponent.
        exponent: common exponent that keeps the stored numbers in the range of float64.
    """

    def __init__(self, bets: int, streams: int = 1) -> None:
        schedules = len(CONSTANT_SHARES) + 1
        self.cells = 0
        self.reserve_E = np.ones(schedules)
        self.stakes_ESK = np.zeros((schedules, bets, streams))
        self.exponent = 0
        self._scaled_value: float | None = None

    @property
    def log_value(self) -> float:
        """Natural logarithm of the largest martingale of all streams."""
        return math.log(self._get_scaled_value()) + self.exponent * math.log(2.0)

    def update(self, bets_SK: Array) -> None:
        """Updates the statistic with the bets of the next cell of each stream."""
        shares_E = get_shares(self.cells)
        self.stakes_ESK += (self.reserve_E * shares_E / len(bets_SK))[:, None, None]
        self.stakes_ESK *= bets_SK
        self.reserve_E = self.reserve_E * (1.0 - shares_E)
        self.cells += 1
        self._scaled_value = None
        exponent = math.frexp(self._get_scaled_value())[1]
        if abs(exponent) > _LARGEST_EXPONENT:  # scaling by a power of two is exact
            self.reserve_E, self.stakes_ESK = (np.ldexp(part, -exponent) for part in (self.reserve_E, self.stakes_ESK))
            self.exponent += exponent
            self._scaled_value = None

    def _get_scaled_value(self) -> float:
        if self._scaled_value is None:  # cached: read several times after each row, and slow for many streams
            sums_K = self.stakes_ESK.reshape(-1, self.stakes_ESK.shape[2]).sum(axis=0)
            self._scaled_value = float(self.reserve_E.mean() + sums_K.max() / len(self.reserve_E))
        return self._scaled_value


class ShiryaevRoberts:
    """For each of K streams: a sum over all possible moments of change.

    Each term is the product of all bets since that moment.

    R_θ ← (1 + R_θ)·b_θ; the statistic is w·mean R_θ, where w is the number of rows per cell. Without drift, the
    expectation of this statistic is the number of rows observed.

    Attributes:
        log_R_SK: ln R of each bet and stream.
    """

    def __init__(self, bets: int, rows: int, streams: int = 1) -> None:
        self._log_rows = math.log(rows)
        self.log_R_SK = np.full((bets, streams), -np.inf)

    @property
    def log_value(self) -> float:
        """Natural logarithm of the largest statistic of all streams; −∞ before the first cell."""
        largest = float(self.log_R_SK.max())
        if largest == -math.inf:
            return largest
        return self._log_rows + largest + math.log(float(np.exp(self.log_R_SK - largest).mean(axis=0).max()))

    def update(self, bets_SK: Array) -> None:
        """Updates the statistic with the bets of the next cell of each stream."""
        self.log_R_SK = np.logaddexp(0.0, self.log_R_SK) + np.log(bets_SK)
