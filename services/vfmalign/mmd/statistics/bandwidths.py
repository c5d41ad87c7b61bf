"""Bandwidths from the distances between rows: the median distance, or a grid between quantiles of the distances.

Legend: R rows, K channels, I rows and J columns of one tile.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from vfmalign.core.domain.errors import BadOption, BadTensor
from vfmalign.core.runtime.work_context import WorkContext
from vfmalign.mmd.engine.products import squared_distances
from vfmalign.mmd.engine.rows import LARGEST_SQUARED_NORM, FloatArray, IntArray, Rows

# Up to this many rows, the median is over all pairs. From more rows, a subset of this size is drawn with a fixed seed.
EXACT_ROWS = 4096
_TILE = 1024
# Squared distances below this fraction of the rows' squared norms are rounding errors between equal rows.
_RELATIVE_ROUNDING = 1e-13


def sample_rows(rows: int) -> IntArray | None:
    """Chooses a representative subset of the rows. Returns the row numbers in ascending order; None for all rows.

    The subset depends only on the number of rows. Permuted labels therefore do not change the subset.
    """
    if rows <= EXACT_ROWS:
        return None
    drawn = np.random.Generator(np.random.Philox(key=0)).choice(rows, EXACT_ROWS, replace=False)
    return np.sort(drawn).astype(np.int64)


def pairwise_distances(rows: Rows, context: WorkContext) -> FloatArray:
    """Returns ‖x_i − x_j‖ of float64 rows for all i < j, in no particular order.

    Raises:
        Cancelled, DeadlineExceeded: see `WorkContext`.
    """
    count = rows.count
    all_distances = np.empty(count * (count - 1) // 2, np.float64)
    filled = 0
    for start_I in range(0, count, _TILE):
        for start_J in range(start_I, count, _TILE):
            tile = _upper_distances(
                rows, slice(start_I, min(start_I + _TILE, count)), slice(start_J, min(start_J + _TILE, count)), context
            )
            all_distances[filled : filled + tile.size] = tile
            filled += tile.size
    return all_distances


def median_distance(rows: Rows, layer: str, context: WorkContext) -> float:
    """Returns the bandwidth σ: the median of ‖x_i − x_j‖ over all i < j.

    With an even number of pairs, the median is the mean of the middle two distances.

    Raises:
        BadOption: there are fewer than 2 rows, or σ is 0.
        BadTensor: a squared distance overflows.
        Cancelled, DeadlineExceeded: see `WorkContext`.
    """
    if rows.count < 2:
        raise BadOption("a bandwidth needs at least 2 rows", field="reference", remedy="send a larger reference")
    # A squared distance is at most twice the sum of both squared norms. Infinite distances would look like equal rows.
    if not float(rows.norms_N.max()) <= LARGEST_SQUARED_NORM["float64"]:
        raise BadTensor(
            f"features of layer `{layer}` are too large to square", field="layers", remedy="scale them down"
        )
    sigma = float(np.median(pairwise_distances(rows, context), overwrite_input=True))
    if sigma == 0.0:
        raise BadOption(
            f"the median distance of the rows of layer `{layer}` is 0, which is not a valid bandwidth",
            field="kernel",
            remedy="use cases that differ, or set a fixed σ",
        )
    return sigma


def bandwidth_grid(rows: Rows, count: int, context: WorkContext) -> tuple[float, ...]:
    """Returns evenly spaced bandwidths, from half the 5 % quantile to twice the 95 % quantile of the distances.

    The bandwidths form the grid of MMD-FUSE (Biggs, Schrab, Gretton, NeurIPS 2023, sec. 5). The grid is empty if all
    rows are equal.
    """
    low, high = np.quantile(pairwise_distances(rows, context), (0.05, 0.95))
    if high <= 0.0:
        return ()
    return tuple(float(sigma) for sigma in np.linspace(max(0.5 * low, 1e-3 * high), 2.0 * high, count))


def _upper_distances(rows: Rows, span_I: slice, span_J: slice, context: WorkContext) -> NDArray[np.float64]:
    """Returns the distances of the pairs i < j in one tile."""
    shape = (span_I.stop - span_I.start, span_J.stop - span_J.start)
    tile_IJ = torch.empty(shape, dtype=rows.dtype, device=rows.device)
    squared_distances(rows, rows, span_I, span_J, tile_IJ, context=context)
    rounding_IJ = _RELATIVE_ROUNDING * (rows.norms_N[span_I, None] + rows.norms_N[None, span_J])
    distance_IJ = torch.where(tile_IJ > rounding_IJ, tile_IJ, 0.0).sqrt_().cpu()
    if span_I == span_J:
        upper = torch.triu_indices(*shape, offset=1)
        return np.asarray(distance_IJ[upper[0], upper[1]].numpy())
    return np.asarray(distance_IJ.flatten().numpy())
