"""A test over a grid of kernels that needs no choice of bandwidth. Knows only statistics per kernel.

The statistic is the largest normalised MMD² of the kernels. The grid is that of MMD-FUSE (Biggs, Schrab, Gretton:
MMD-FUSE: Learning and Combining Kernels for Two-Sample Testing Without Data Splitting, NeurIPS 2023); the normaliser
lies between theirs, √N, and the standard deviation over permutations of max-T (Westfall and Young, 1993). Grid and
normalisers treat all labellings alike, so that permuted statistics are exchangeable with the observed one and the
test keeps its level.

Legend: F kernels, B permutations.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vfmalign.mmd.comparison.designs import Statistics
from vfmalign.mmd.comparison.memory_budget import BANDWIDTHS
from vfmalign.mmd.comparison.options import ComputeConfig
from vfmalign.mmd.comparison.samples import Features
from vfmalign.mmd.comparison.standardisation import Scaled, drawn
from vfmalign.mmd.engine.kernels import BoundKernel, gaussian, laplacian
from vfmalign.mmd.engine.tiles import Sums
from vfmalign.mmd.statistics import bandwidths

SHARE_OF_SPREAD = 0.75
ROUNDING = 1e-9  # of k: MMD² of two labellings that differ by less do so by rounding


def kernels(x: Features, y: Features, scaled: Scaled, engine: ComputeConfig) -> list[BoundKernel]:
    """Gaussian and Laplacian kernels at ten bandwidths each; none where all rows are equal."""
    rows = drawn([x, y], scaled.affine, engine)
    sigmas = bandwidths.bandwidth_grid(rows, BANDWIDTHS, engine.context)
    return [family(sigma, rows.channels) for family in (gaussian, laplacian) for sigma in sigmas]


def largest(
    statistics: Sequence[Statistics], sums: Sequence[Sums], rows: int, *, enumerated: bool
) -> Statistics | None:
    """Max over kernels k of MMD²_k / (s_k^¾ · r_k^¼): s the SD over all labellings, r the root mean square of k.

    r alone (FUSE) counts kernels for little that are wide: most of their mean square is a constant that MMD² does not
    see. s alone counts them for as much as narrow ones, of which fewer are telling. The exponent was chosen on
    simulated alternatives (docs/adr/0037-*.md).

    Args:
        statistics: of each kernel, on the samples as they are and permuted.
        sums: of each kernel, with `squares`.
        rows: of both samples together.
        enumerated: whether the permutations hold the samples as they are.

    Returns:
        The statistic observed and permuted; None where no kernel tells two labellings apart.
    """
    if not statistics:
        return None
    observed_F = np.array([one.observed for one in statistics])
    permuted_FB = np.stack([one.permuted_B for one in statistics])
    labellings_FB = permuted_FB if enumerated else np.column_stack([observed_F, permuted_FB])
    spread_F = labellings_FB.std(axis=1)
    size_F = np.sqrt(np.array([one.squares for one in sums]) / (rows * (rows - 1.0)))
    telling_F = spread_F > ROUNDING * size_F
    if not telling_F.any():
        return None
    scale_F = spread_F[telling_F] ** SHARE_OF_SPREAD * size_F[telling_F] ** (1.0 - SHARE_OF_SPREAD)
    normalised_FB = permuted_FB[telling_F] / scale_F[:, None]
    return Statistics(float((observed_F[telling_F] / scale_F).max()), normalised_FB.max(axis=0), ())
