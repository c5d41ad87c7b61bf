"""frouros: its detector, fitted on x and compared with y."""

from __future__ import annotations

from functools import partial

import numpy as np
from frouros.callbacks import PermutationTestDistanceBased
from frouros.detectors.data_drift import MMD
from frouros.utils.kernels import rbf_kernel
from numpy.typing import NDArray

Array = NDArray[np.floating]


def value(x: Array, y: Array, *, sigma: float, chunk_size: int | None) -> float:
    """Computes the distance alone."""
    detector = MMD(kernel=partial(rbf_kernel, sigma=sigma), chunk_size=chunk_size)
    detector.fit(X=x)
    return float(detector.compare(X=y)[0].distance)


def test(x: Array, y: Array, *, sigma: float, permutations: int, seed: int) -> dict[str, float]:
    """Runs its permutation test."""
    test = PermutationTestDistanceBased(num_permutations=permutations, random_state=seed, num_jobs=1)
    detector = MMD(kernel=partial(rbf_kernel, sigma=sigma), callbacks=test)
    detector.fit(X=x)
    distance, log = detector.compare(X=y)
    return {"value": float(distance.distance), "p": float(log["PermutationTestDistanceBased"]["p_value"])}
