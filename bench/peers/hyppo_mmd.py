"""hyppo: its MMD is a scaled HSIC, so its value is another statistic."""

from __future__ import annotations

import numpy as np
from hyppo.ksample import MMD
from numpy.typing import NDArray

Array = NDArray[np.floating]


def value(x: Array, y: Array, *, sigma: float) -> float:
    """The statistic alone, in float64 as its own test takes it."""
    return float(MMD(gamma=1 / (2 * sigma**2)).statistic(x.astype(np.float64), y.astype(np.float64)))


def tested(x: Array, y: Array, *, sigma: float, permutations: int, seed: int) -> dict[str, float]:
    """By permutation; 0 permutations take its χ² approximation."""
    test = MMD(gamma=1 / (2 * sigma**2))
    found, p = test.test(x, y, reps=permutations, workers=-1, auto=permutations == 0, random_state=seed)
    return {"value": float(found), "p": float(p)}
