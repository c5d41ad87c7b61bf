"""Sums over a symmetric kernel matrix, tile by tile, without ever holding the matrix. Knows nothing of statistics.

Only tiles on and above the diagonal are computed. Distances and kernel values have the precision of the features given
(float32 or float64); every sum is formed in float64.

Legend: N rows, D channels, I and J the rows and columns of one tile, P blocks of rows, G groups, B relabellings.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vfmalign.core.errors import Cancelled
from vfmalign.mmd.kernels import Kernel

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
ShouldStop = Callable[[], bool]


class Tiles(Protocol):
    """A symmetric N×N matrix that can be computed one rectangle at a time."""

    device: torch.device

    def tile(self, rows: slice, columns: slice) -> Tensor:
        """The rectangle [I, J]; `rows` and `columns` are equal or do not overlap."""


@dataclass(frozen=True)
class Sums:
    """What statistics need to know of a symmetric matrix T.

    Attributes:
        rows_NP: Σ_j T_ij over the columns j of each block, diagonal included.
        diagonal_N: T_ii.
        within_G: Σ T_ij over i and j of one group, diagonal included.
        quadratic_B: w_bᵀ T w_b for each relabelling b.
    """

    rows_NP: FloatArray  # noqa: N815
    diagonal_N: FloatArray  # noqa: N815
    within_G: FloatArray  # noqa: N815
    quadratic_B: FloatArray  # noqa: N815


def squared_norms(features_ND: Tensor) -> Tensor:
    """‖x_i‖² of the rows as they are, summed in float64, in the precision of the features."""
    return features_ND.double().square().sum(dim=1).to(features_ND.dtype)


def squared_distances(x_ID: Tensor, y_JD: Tensor, x_norms_I: Tensor, y_norms_J: Tensor) -> Tensor:
    """‖x_i − y_j‖² from one matrix product; rounding below 0 is lifted to 0."""
    norms_IJ = x_norms_I[:, None] + y_norms_J[None, :]
    return norms_IJ.addmm_(x_ID, y_JD.T, alpha=-2.0).clamp_min_(0.0)


class PooledTiles:
    """K over the pooled rows [x; y]: what independent samples need."""

    def __init__(self, x_ND: Tensor, y_MD: Tensor, kernel: Kernel, sigma: float) -> None:
        self._pooled_ND = torch.cat([x_ND, y_MD])
        self._norms_N = squared_norms(self._pooled_ND)
        self._kernel, self._sigma = kernel, sigma
        self.device = x_ND.device

    def tile(self, rows: slice, columns: slice) -> Tensor:
        """k(z_i, z_j) of one rectangle."""
        distances_IJ = squared_distances(
            self._pooled_ND[rows], self._pooled_ND[columns], self._norms_N[rows], self._norms_N[columns]
        )
        if rows == columns:
            distances_IJ.fill_diagonal_(0.0)
        return self._kernel.evaluate_(distances_IJ, self._sigma)


class PairedTiles:
    """h(z_i, z_j) = k(x_i, x_j) + k(y_i, y_j) − k(x_i, y_j) − k(x_j, y_i) over pairs z_i = (x_i, y_i).

    Summing h instead of its four terms cancels before it accumulates: identical samples give 0, not a difference of
    large sums.
    """

    def __init__(self, x_ND: Tensor, y_ND: Tensor, kernel: Kernel, sigma: float) -> None:
        self._x_ND, self._y_ND = x_ND, y_ND
        self._x_norms_N, self._y_norms_N = squared_norms(x_ND), squared_norms(y_ND)
        self._kernel, self._sigma = kernel, sigma
        self.device = x_ND.device

    def tile(self, rows: slice, columns: slice) -> Tensor:
        """H of one rectangle."""
        x_I, y_I, x_J, y_J = self._x_ND[rows], self._y_ND[rows], self._x_ND[columns], self._y_ND[columns]
        nx_I, ny_I = self._x_norms_N[rows], self._y_norms_N[rows]
        nx_J, ny_J = self._x_norms_N[columns], self._y_norms_N[columns]
        terms = [
            squared_distances(x_I, x_J, nx_I, nx_J),
            squared_distances(y_I, y_J, ny_I, ny_J),
            squared_distances(x_I, y_J, nx_I, ny_J),
            squared_distances(y_I, x_J, ny_I, nx_J),
        ]
        if rows == columns:
            # The product form loses the small distances of a pair; there are few of them, so take them directly.
            pairs_I = (x_I.double() - y_I.double()).square_().sum(dim=1).to(x_I.dtype)
            for term, diagonal_I in zip(terms, (0.0, 0.0, pairs_I, pairs_I), strict=True):
                term.diagonal().copy_(torch.as_tensor(diagonal_I, dtype=term.dtype, device=term.device))
        xx, yy, xy, yx = (self._kernel.evaluate_(term, self._sigma) for term in terms)
        return xx.add_(yy).sub_(xy).sub_(yx)


def tile_rows_within(tile_bytes: int) -> int:
    """Rows of a square tile whose temporaries (at most nine float64 squares of that size) stay within `tile_bytes`."""
    return max(8, math.isqrt(tile_bytes // (9 * 8)))


def accumulate(
    tiles: Tiles,
    block_sizes: Sequence[int],
    group_of_N: IntArray,
    weights_GB: NDArray[np.int8],
    *,
    tile_rows: int,
    should_stop: ShouldStop,
) -> Sums:
    """All sums of the matrix in one pass over its upper tiles.

    Args:
        tiles: the matrix.
        block_sizes: rows of each block, in order; row sums are split by block.
        group_of_N: index of each row's group; ascending, so that rows of a group are neighbours.
        weights_GB: weight of each group's rows in each relabelling (−1, 0 or 1); B may be 0.
        tile_rows: largest side of a tile.
        should_stop: asked before every tile.

    Raises:
        Cancelled: `should_stop` said so.
    """
    device, rows, n_groups = tiles.device, sum(block_sizes), weights_GB.shape[0]
    group_of = torch.from_numpy(group_of_N).to(device)
    weights = torch.from_numpy(weights_GB).to(device)
    sums_NP = torch.zeros(rows, len(block_sizes), dtype=torch.float64, device=device)
    diagonal_N = torch.zeros(rows, dtype=torch.float64, device=device)
    within_G = torch.zeros(n_groups, dtype=torch.float64, device=device)
    quadratic_B = torch.zeros(weights.shape[1], dtype=torch.float64, device=device)

    spans = list(_spans(block_sizes, tile_rows))
    for first, (block_I, span_I) in enumerate(spans):
        for block_J, span_J in spans[first:]:
            if should_stop():
                raise Cancelled("the comparison was stopped between two tiles", remedy="ask again to start it anew")
            tile_IJ = tiles.tile(span_I, span_J).double()
            on_diagonal = span_I == span_J
            sums_NP[span_I, block_J] += tile_IJ.sum(dim=1)
            if on_diagonal:
                diagonal_N[span_I] = tile_IJ.diagonal()
            else:
                sums_NP[span_J, block_I] += tile_IJ.sum(dim=0)
            factor = 1.0 if on_diagonal else 2.0
            if group_of_N[span_I.stop - 1] >= group_of_N[span_J.start]:
                _add_within(within_G, tile_IJ, group_of[span_I], group_of[span_J], factor)
            if weights.shape[1]:
                _add_quadratic(quadratic_B, factor * tile_IJ, group_of[span_I], group_of[span_J], weights)
    return Sums(*(part.cpu().numpy() for part in (sums_NP, diagonal_N, within_G, quadratic_B)))


def _spans(block_sizes: Sequence[int], tile_rows: int) -> Iterator[tuple[int, slice]]:
    """Consecutive ranges of rows, none longer than a tile and none across two blocks."""
    start = 0
    for block, size in enumerate(block_sizes):
        for offset in range(0, size, tile_rows):
            yield block, slice(start + offset, start + min(offset + tile_rows, size))
        start += size


def _add_within(within_G: Tensor, tile_IJ: Tensor, group_I: Tensor, group_J: Tensor, factor: float) -> None:
    """Adds the entries whose row and column belong to one group."""
    same_I = (tile_IJ * (group_I[:, None] == group_J[None, :])).sum(dim=1)
    within_G.index_add_(0, group_I, same_I, alpha=factor)


def _add_quadratic(quadratic_B: Tensor, tile_IJ: Tensor, group_I: Tensor, group_J: Tensor, weights_GB: Tensor) -> None:
    """Adds this tile's share of wᵀTw for every relabelling, as many columns at a time as the tile has."""
    step = max(tile_IJ.shape[1], 1)
    for start in range(0, weights_GB.shape[1], step):
        columns = slice(start, start + step)
        product_IB = tile_IJ @ weights_GB[:, columns][group_J].double()
        product_IB *= weights_GB[:, columns][group_I]
        quadratic_B[columns] += product_IB.sum(dim=0)
