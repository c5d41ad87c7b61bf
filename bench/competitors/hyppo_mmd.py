"""hyppo: its MMD is a scaled HSIC, which is a different statistic."""

from __future__ import annotations

import numpy as np
from hyppo.ksample import MMD
from numpy.typing import NDArray

Array = NDArray[np.floating]


def value(x: Array, y: Array, *, sigma: float) -> float:
    """Computes the statistic alone, in float64 as its own test does."""
    return float(MMD(gamma=1 / (2 * sigma**2)).statistic(x.astype(np.float64), y.astype(np.float64)))


def test(x: Array, y: Array, *, sigma: float, permutations: int, seed: int) -> dict[str, float]:
    """Tests by permutation, or by its χ² approximation where `permutations` is 0."""
    test = MMD(gamma=1 / (2 * sigma**2))
    statistic, p = test.test(x, y, reps=permutations, workers=-1, auto=permutations == 0, random_state=seed)
    return {"value": float(statistic), "p": float(p)}
