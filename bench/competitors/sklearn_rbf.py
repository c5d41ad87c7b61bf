"""scikit-learn: the textbook formula over its `rbf_kernel`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics.pairwise import rbf_kernel


def value(x: NDArray[np.floating], y: NDArray[np.floating], *, sigma: float) -> float:
    """Computes it from the means of three kernel matrices."""
    gamma, n, m = 1 / (2 * sigma**2), len(x), len(y)
    xx, yy = rbf_kernel(x, x, gamma), rbf_kernel(y, y, gamma)
    within = (xx.sum() - np.trace(xx)) / (n * (n - 1)) + (yy.sum() - np.trace(yy)) / (m * (m - 1))
    return float(within - 2 * rbf_kernel(x, y, gamma).mean())
