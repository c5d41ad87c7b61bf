"""A test over a grid of kernels that needs no choice of bandwidth: MMD-FUSE. Knows only statistics per kernel.

Source: Biggs, Schrab, Gretton: MMD-FUSE: Learning and Combining Kernels for Two-Sample Testing Without Data Splitting,
NeurIPS 2023. The grid and the normalisation depend on the pooled rows alone, so that relabelled statistics are
exchangeable with the observed one and the test keeps its level.

Legend: F kernels, B relabellings.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import logsumexp

from vfmalign.mmd import bandwidths
from vfmalign.mmd.designs import Statistics
from vfmalign.mmd.engine import Sums
from vfmalign.mmd.kernels import Kernel, gaussian, laplacian
from vfmalign.mmd.limits import BANDWIDTHS
from vfmalign.mmd.results import Engine
from vfmalign.mmd.rows import FloatArray
from vfmalign.mmd.samples import Features
from vfmalign.mmd.scalings import Scaled, drawn


def kernels(x: Features, y: Features, scaled: Scaled, engine: Engine) -> list[Kernel]:
    """Gaussian and Laplacian kernels at ten bandwidths each; none where all rows are equal."""
    rows = drawn([x, y], scaled.affine, engine)
    sigmas = bandwidths.grid(rows, BANDWIDTHS, engine.between_tiles)
    return [family(sigma, rows.channels) for family in (gaussian, laplacian) for sigma in sigmas]


def fuse(statistics: Sequence[Statistics], sums: Sequence[Sums], rows: int) -> Statistics | None:
    """FUSE_N (sec. 4): (1/λ)·log of the mean over kernels of exp(λ·MMD²_k/√N_k), N_k the mean of k², λ = √(n(n − 1)).

    Args:
        statistics: of each kernel, on the samples as they are and relabelled.
        sums: of each kernel, with `squares`.
        rows: of both samples together.

    Returns:
        The statistic observed and relabelled; None without kernels.
    """
    if not statistics:
        return None
    scale_F = np.sqrt(np.array([one.squares for one in sums]) / (rows * (rows - 1.0)))
    half = rows / 2.0
    rate = float(np.sqrt(half * (half - 1.0)))
    observed_F = np.array([one.observed for one in statistics]) / scale_F
    relabelled_FB = np.stack([one.relabelled_B for one in statistics]) / scale_F[:, None]
    return Statistics(float(_soft_maximum(observed_F[:, None], rate)[0]), _soft_maximum(relabelled_FB, rate), ())


def _soft_maximum(values_FB: FloatArray, rate: float) -> FloatArray:
    """log-mean-exp over the kernels at the rate λ, [B]."""
    return np.asarray((logsumexp(rate * values_FB, axis=0) - np.log(values_FB.shape[0])) / rate)
