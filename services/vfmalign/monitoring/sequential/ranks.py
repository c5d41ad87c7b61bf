"""Ranks of scores as cells of a p-value, and a store of scores that needs 8 bytes per score.

A cell is the interval (lower, upper) that contains a conformal p-value. If `greater` scores exceed a score, its cell is
(greater / N, (greater + 1) / N), where N is the number of scores including the score itself. Equal scores are ordered
at random, because the bound of docs/monitoring-mathematics.md requires independent ranks. If all equal scores shared a
wider cell, ranks would not be independent: the cell would show which earlier scores equal later scores.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_RECENT_SCORES = 2048


class Cell(NamedTuple):
    """Interval of a p-value in [0, 1]. An unusually large score has a small p-value."""

    lower: float
    upper: float


def get_cell(greater: int, equal: int, others: int, uniform: float) -> Cell:
    """Returns the cell of a score.

    Args:
        greater: number of other scores that are greater than the score.
        equal: number of other scores that are equal to the score.
        others: number of other scores.
        uniform: random number in [0, 1) that decides the order of equal scores.
    """
    above = greater + int(uniform * (equal + 1))
    return Cell(above / (others + 1), (above + 1) / (others + 1))


class SortedScores:
    """Sorted list of scores with insertion in logarithmic time.

    New scores are inserted into a small sorted list. When this list is full, it is merged into a sorted array.

    Args:
        scores: initial scores, in any order.
    """

    def __init__(self, scores: NDArray[np.float64]) -> None:
        self._merged = np.sort(scores)
        self._recent: list[float] = []

    def __len__(self) -> int:
        return len(self._merged) + len(self._recent)

    def count(self, score: float) -> tuple[int, int]:
        """Returns two numbers: how many stored scores are greater than a score, and how many are equal to it."""
        left, right = np.searchsorted(self._merged, score, "left"), np.searchsorted(self._merged, score, "right")
        recent_left, recent_right = bisect_left(self._recent, score), bisect_right(self._recent, score)
        return len(self) - int(right) - recent_right, int(right - left) + recent_right - recent_left

    def add(self, score: float) -> None:
        """Adds a score."""
        insort(self._recent, score)
        if len(self._recent) == _RECENT_SCORES:
            self._merged, self._recent = self.to_array(), []

    def to_array(self) -> NDArray[np.float64]:
        """Returns all scores in ascending order."""
        return np.sort(np.concatenate([self._merged, self._recent]), kind="stable")
