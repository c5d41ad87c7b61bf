"""Evidence from the cells of p-values: test martingales and Shiryaev–Roberts statistics.

A bet turns a cell into the mean over it of θ·u^(θ − 1), whose integral over [0, 1] is 1: small p-values multiply the
stake, others shrink it (Vovk et al., COPA 2021). Each statistic combines the bets of all θ, and of the mirrored cell
where unusually small scores count as well.

Legend: S bets, E schedules.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from vfmalign.monitoring.sequential.ranks import Cell

Array = NDArray[np.float64]

THETAS = np.array([0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.85])
CONSTANT_SHARES = (1 / 20, 1 / 100, 1 / 500)
"""Shares of the reserve that three schedules stake at every cell, for changes after about 20, 100 and 500 cells."""
SLOW_SCHEDULE = 500.0
"""Cells after which the fourth schedule has staked 1 − 1/√2 of its reserve: it keeps (1 + n/500)^(−½) after n."""
_LARGEST_EXPONENT = 256


def get_bets(cell: Cell, *, mirrored: bool) -> Array:
    """Returns the mean of θ·u^(θ − 1) over a cell for each θ, then over the mirrored cell if `mirrored`."""
    bets = _get_means(cell.lower, cell.upper)
    return np.concatenate([bets, _get_means(1.0 - cell.upper, 1.0 - cell.lower)]) if mirrored else bets


def _get_means(lower: float, upper: float) -> Array:
    means: Array = (upper**THETAS - lower**THETAS) / (upper - lower)
    return means


def get_shares(cells: int) -> Array:
    """Returns the share of its reserve that each schedule stakes at cell number `cells`, counted from 0."""
    slow = 1.0 - math.sqrt((SLOW_SCHEDULE + cells) / (SLOW_SCHEDULE + cells + 1.0))
    return np.array([*CONSTANT_SHARES, slow])


class Martingale:
    """A mixture of bets that begin at every cell, by four schedules.

    Of the reserve σ of a schedule, which is 1 at first, each cell stakes a share η equally among the S bets:
    a ← (a + σ·η/S)·b, σ ← σ·(1 − η). The martingale is the mean of σ + Σ a over the schedules. It is 1 at first, and
    its expectation stays 1 without drift.

    Attributes:
        cells: number of cells so far.
        reserve_E: σ of each schedule, divided by 2^exponent.
        stakes_ES: a of each schedule and bet, divided by 2^exponent.
        exponent: keeps the numbers in the range of float64.
    """

    def __init__(self, bets: int) -> None:
        schedules = len(CONSTANT_SHARES) + 1
        self.cells = 0
        self.reserve_E = np.ones(schedules)
        self.stakes_ES = np.zeros((schedules, bets))
        self.exponent = 0

    @property
    def log_value(self) -> float:
        """Natural logarithm of the martingale."""
        return math.log(self._get_scaled_value()) + self.exponent * math.log(2.0)

    def update(self, bets_S: Array) -> None:
        """Takes the bets of the next cell."""
        shares_E = get_shares(self.cells)
        self.stakes_ES = (self.stakes_ES + (self.reserve_E * shares_E / len(bets_S))[:, None]) * bets_S
        self.reserve_E = self.reserve_E * (1.0 - shares_E)
        self.cells += 1
        exponent = math.frexp(self._get_scaled_value())[1]
        if abs(exponent) > _LARGEST_EXPONENT:  # scaling by a power of two is exact
            self.reserve_E, self.stakes_ES = (np.ldexp(part, -exponent) for part in (self.reserve_E, self.stakes_ES))
            self.exponent += exponent

    def _get_scaled_value(self) -> float:
        return float((self.reserve_E + self.stakes_ES.sum(axis=1)).mean())


class ShiryaevRoberts:
    """The sum over all possible moments of change of the product of the bets since then.

    R_θ ← (1 + R_θ)·b_θ; the statistic is w·mean R_θ, where w is the number of rows of a cell. Without drift, its
    expectation is the number of rows so far.

    Attributes:
        log_R_S: ln R of each bet.
    """

    def __init__(self, bets: int, rows: int) -> None:
        self._log_rows = math.log(rows)
        self.log_R_S = np.full(bets, -np.inf)

    @property
    def log_value(self) -> float:
        """Natural logarithm of the statistic; −∞ before the first cell."""
        largest = float(self.log_R_S.max())
        if largest == -math.inf:
            return largest
        return self._log_rows + largest + math.log(float(np.exp(self.log_R_S - largest).mean()))

    def update(self, bets_S: Array) -> None:
        """Takes the bets of the next cell."""
        self.log_R_S = np.logaddexp(0.0, self.log_R_S) + np.log(bets_S)
