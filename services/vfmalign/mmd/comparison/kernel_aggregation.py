"""Test over a grid of kernels, so that no bandwidth has to be chosen.

The test statistic is the maximum over all kernels of the normalised MMD². The grid of kernels comes from MMD-FUSE
(Biggs, Schrab, Gretton: MMD-FUSE: Learning and Combining Kernels for Two-Sample Testing Without Data Splitting, NeurIPS
2023). MMD-FUSE divides by the root mean square of the kernel. Max-T (Westfall and Young, 1993) divides by the standard
deviation over permutations. The normaliser of this module lies between those of MMD-FUSE and max-T. The test keeps its
level, because the grid and the normalisers do not depend on which rows are labelled x.

Legend: N rows of x, M rows of y, C channels, F kernels, B permutations.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vfmalign.mmd.comparison.designs import Statistics
from vfmalign.mmd.comparison.memory_budget import BANDWIDTHS
from vfmalign.mmd.comparison.standardisation import Scaled, prepare_bandwidth_rows
from vfmalign.mmd.engine.compute_config import ComputeConfig
from vfmalign.mmd.engine.kernels import BoundKernel, gaussian, laplacian
from vfmalign.mmd.engine.row_streams import FeatureArray
from vfmalign.mmd.engine.tiles import Sums
from vfmalign.mmd.statistics import bandwidths

SHARE_OF_SPREAD = 0.75
ROUNDING = 1e-9  # relative to k: smaller differences of MMD² between two labellings are rounding errors


def make_kernels(x_NC: FeatureArray, y_MC: FeatureArray, scaled: Scaled, engine: ComputeConfig) -> list[BoundKernel]:
    """Returns ten Gaussian and ten Laplacian kernels that differ in bandwidth; empty if all rows are equal."""
    rows = prepare_bandwidth_rows([x_NC, y_MC], scaled.affine, engine)
    sigmas = bandwidths.bandwidth_grid(rows, BANDWIDTHS, engine.context)
    return [family(sigma, rows.channels) for family in (gaussian, laplacian) for sigma in sigmas]


def get_largest_statistic(
    statistics: Sequence[Statistics], sums: Sequence[Sums], rows: int, *, enumerated: bool
) -> Statistics | None:
    """Returns the maximum of MMD²_k / (s_k^¾ · r_k^¼) over all kernels k.

    s_k is the SD of MMD²_k over all labellings, and r_k is the root mean square of kernel k. Division by r_k alone
    (FUSE) would give wide kernels little weight, because most of their mean square is a constant that cancels in MMD².
    Division by s_k alone would give wide and narrow kernels the same weight, so that the test would lose the power of
    the narrow kernels. Simulations determined the exponents (docs/adr/0028-*.md).

    Args:
        statistics: observed and permuted MMD² of each kernel.
        sums: sums of each kernel matrix; they must include `squares`.
        rows: number of rows of both samples together.
        enumerated: whether the permutations include the identity.

    Returns:
        The observed and the permuted values of the statistic; None if all labellings give the same values.
    """
    if not statistics:
        return None
    observed_F = np.array([kernel.observed for kernel in statistics])
    permuted_FB = np.stack([kernel.permuted_B for kernel in statistics])
    labellings_FB = permuted_FB if enumerated else np.column_stack([observed_F, permuted_FB])
    spread_F = labellings_FB.std(axis=1)
    size_F = np.sqrt(np.array([kernel.squares for kernel in sums]) / (rows * (rows - 1.0)))
    informative_F = spread_F > ROUNDING * size_F
    if not informative_F.any():
        return None
    scale_F = spread_F[informative_F] ** SHARE_OF_SPREAD * size_F[informative_F] ** (1.0 - SHARE_OF_SPREAD)
    normalised_FB = permuted_FB[informative_F] / scale_F[:, None]
    return Statistics(float((observed_F[informative_F] / scale_F).max()), normalised_FB.max(axis=0), ())
