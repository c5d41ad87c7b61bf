"""MMD-FUSE in plain numpy, from its paper, as a competitor of the engine's aggregated test.

Transcribed from the formulas of Biggs, Schrab, Gretton: MMD-FUSE: Learning and Combining Kernels for
Two-Sample Testing Without Data Splitting, NeurIPS 2023, as the authors' package is not on PyPI. It stores every kernel
matrix and shares no code with the engine.

Legend: N rows of both samples, B permutations, F kernels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from scipy.special import logsumexp

Array = NDArray[np.float64]
Rate = Literal["paper", "package"]
BANDWIDTHS = 10


def p_values(x: Array, y: Array, permutations: int, seed: int) -> dict[Rate, float]:
    """Returns the p-values of FUSE_N with Laplace (L1) and Gaussian kernels at ten bandwidths each, its default.

    `paper` weighs by λ = √(n(n − 1)) and N̂_k = Σ_{i≠j} k²/(n(n − 1)) over the pooled rows, n being
    the smaller sample; the authors' package multiplies the exponent by √(n(n − 1)) once more, which comes close to the
    largest of the normalised statistics.

    Args:
        x: first sample (n, d).
        y: second sample (m, d).
        permutations: B.
        seed: of the permutations.
    """
    n, m = len(x), len(y)
    rng = np.random.default_rng(seed)
    is_x_BN = np.zeros((permutations + 1, n + m))
    is_x_BN[0, :n] = 1.0
    for row in is_x_BN[1:]:
        row[rng.permutation(n + m)[:n]] = 1.0
    fewest = min(n, m)
    scale = float(np.sqrt(fewest * (fewest - 1.0)))
    statistics_FB = np.stack(
        [_unbiased_mmd2(kernel, is_x_BN) / _normaliser(kernel, fewest) for kernel in _kernels(x, y)]
    )
    return {
        "paper": _p_value(scale * statistics_FB),
        "package": _p_value(scale * scale * statistics_FB),
    }


def _kernels(x: Array, y: Array) -> Iterator[Array]:
    """Yields kernel matrices of the pooled rows with a diagonal of 0."""
    pooled = np.concatenate([x, y])
    for metric in ("cityblock", "euclidean"):
        distances = cdist(pooled, pooled, metric)
        upper = distances[np.triu_indices(len(pooled), 1)]
        low, high = np.quantile(upper, (0.05, 0.95))
        for sigma in np.linspace(0.5 * low, 2.0 * high, BANDWIDTHS):
            scaled = distances / sigma
            kernel = np.exp(-np.sqrt(2.0) * scaled) if metric == "cityblock" else np.exp(-0.5 * scaled**2)
            np.fill_diagonal(kernel, 0.0)
            yield kernel


def _unbiased_mmd2(kernel: Array, is_x_BN: Array) -> Array:
    """Returns MMD²_u under every permutation (Gretton et al., JMLR 2012, eq. 3), [B]."""
    n = is_x_BN[0].sum()
    m = is_x_BN.shape[1] - n
    to_x_BN = is_x_BN @ kernel
    xx = (to_x_BN * is_x_BN).sum(axis=1)
    xy = to_x_BN.sum(axis=1) - xx
    yy = kernel.sum() - xx - 2.0 * xy
    return np.asarray(xx / (n * (n - 1)) + yy / (m * (m - 1)) - 2.0 * xy / (n * m))


def _normaliser(kernel: Array, fewest: int) -> float:
    """Returns √N̂_k."""
    return float(np.sqrt((kernel**2).sum() / (fewest * (fewest - 1.0))))


def _p_value(exponents_FB: Array) -> float:
    """Returns the share of permutations, identity included, whose soft maximum over kernels is at least as large."""
    fused_B = logsumexp(exponents_FB, axis=0)
    return float((fused_B >= fused_B[0] - 1e-9 * abs(fused_B[0])).mean())
