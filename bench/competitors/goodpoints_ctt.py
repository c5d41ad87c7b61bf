"""goodpoints: compress-then-test, the MMD of coresets, which is a different and cheaper statistic."""

from __future__ import annotations

import numpy as np
from goodpoints.ctt import ctt
from numpy.typing import NDArray

Array = NDArray[np.floating]


def test(x: Array, y: Array, *, sigma: float, permutations: int, seed: int, g: int) -> dict[str, float]:
    """Runs its test at compression level g; its kernel is exp(−‖x−y‖² / λ²)."""
    a, b, width = x.astype(np.float64), y.astype(np.float64), sigma * np.sqrt(2.0)
    result = ctt(a, b, g, B=permutations, lam=width, null_seed=seed, statistic_seed=seed)
    values = np.asarray(result.estimator_values)
    return {"value": float(values[-1]), "p": float((values >= values[-1]).mean())}
