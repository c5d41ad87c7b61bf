"""The schedule of TrustyAI's MMD endpoint, written from its description: a permutation test again and again.

Legend: R reference rows, N rows of both samples, B permutations.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bench.monitoring.distributions import Array

BATCH, PERMUTATIONS, ALPHA = 100, 199, 0.05
DESCRIPTION = (
    f"TrustyAI's schedule: after every {BATCH} rows, these are compared with the reference by MMD² (Gaussian kernel, "
    f"median bandwidth of the reference) and {PERMUTATIONS} permutations at {ALPHA:.0%}, without correction. "
    "Re-implemented from its description."
)


def get_alarm(reference_RD: Array, rows_ND: Array, seed: int) -> int | None:
    """Returns the number of the row after which a test rejects first."""
    rng = np.random.default_rng([seed, 78])
    bandwidth = float(np.median(_get_distances(reference_RD, reference_RD)[np.triu_indices(len(reference_RD), 1)]))
    own_RR = np.exp(_get_distances(reference_RD, reference_RD) / -bandwidth)
    for stop in range(BATCH, len(rows_ND) + 1, BATCH):
        batch_ND = rows_ND[stop - BATCH : stop]
        cross_RN = np.exp(_get_distances(reference_RD, batch_ND) / -bandwidth)
        batch_NN = np.exp(_get_distances(batch_ND, batch_ND) / -bandwidth)
        if get_p_value(np.block([[own_RR, cross_RN], [cross_RN.T, batch_NN]]), len(reference_RD), rng) <= ALPHA:
            return stop
    return None


def get_p_value(kernel_NN: Array, first: int, rng: np.random.Generator) -> float:
    """Returns the p-value of the biased MMD² of the first rows and the others."""
    rows = len(kernel_NN)
    weights_NB = np.full((rows, PERMUTATIONS + 1), -1.0 / (rows - first))
    weights_NB[:first, 0] = 1.0 / first
    for permutation in range(1, PERMUTATIONS + 1):
        weights_NB[rng.permutation(rows)[:first], permutation] = 1.0 / first
    values_B: NDArray[np.float64] = ((kernel_NN @ weights_NB) * weights_NB).sum(axis=0)
    return float((values_B >= values_B[0] - 1e-12).sum() / (PERMUTATIONS + 1))


def _get_distances(a_MD: Array, b_ND: Array) -> Array:
    squares = np.square(a_MD).sum(axis=1)[:, None] + np.square(b_ND).sum(axis=1)
    return np.maximum(squares - 2.0 * a_MD @ b_ND.T, 0.0)
