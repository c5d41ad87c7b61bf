"""ummd: the biased statistic, tested by permutation or by its saddle point approximation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from ummd import MMD

Array = NDArray[np.floating]


def test(x: Array, y: Array, *, sigma: float, permutations: int, seed: int, method: str) -> dict[str, float]:
    """Tests at one bandwidth, without its search for repeated rows, as there are none."""
    result = MMD(
        x,
        y,
        unique=False,
        bandwidths=np.array([sigma]),
        method=method,
        n_permutations=permutations,
        cauchy_weighting=None,
        seed=seed,
    )
    return {"value": float(result["biased_MMD"][0]), "p": float(result["p-value"][0])}
