"""wᵀTw of every permutation w, tile by tile: statistics of permuted samples without T. Knows no kernels.

Legend: N rows, I and J the rows and columns of one tile, G groups, B permutations, b some of them.
"""

from __future__ import annotations

import threading

import torch
from torch import Tensor

_PERMUTATIONS_AT_ONCE = 2048
_NOTHING = torch.empty(0)


class QuadraticForms(threading.local):
    """Sums of wᵀTw over the tiles of T; every thread has working memory of its own."""

    def __init__(self, weights_GB: Tensor, group_of_N: Tensor, dtype: torch.dtype) -> None:
        """Starts at 0.

        Args:
            weights_GB: weight of each group's rows in each permutation (−1, 0 or 1), int8.
            group_of_N: index of each row's group.
            dtype: of the tiles.
        """
        self._weights_GB, self._group_of_N = weights_GB, group_of_N
        self._dtype = dtype
        self._singletons = len(group_of_N) == len(weights_GB)
        self._kept_key, self._kept_Jb = (0, 0, 0), _NOTHING

    def of(self, tile_IJ: Tensor, rows: slice, columns: slice) -> Tensor:
        """Σ_ij w_i T_ij w_j over one tile for every permutation, float64 [B]."""
        found_B = torch.empty(self._weights_GB.shape[1], dtype=torch.float64, device=tile_IJ.device)
        for start in range(0, len(found_B), _PERMUTATIONS_AT_ONCE):
            some = slice(start, start + _PERMUTATIONS_AT_ONCE)
            weights_Ib = self._weights(rows, some).to(self._dtype)
            self._keep(columns, some)
            product_Ib = tile_IJ @ self._kept_Jb
            found_B[some] = product_Ib.mul_(weights_Ib).sum(dim=0)
        return found_B

    def _keep(self, columns: slice, some: slice) -> None:
        """Weights of a tile's columns as products take them; tiles come column by column, so they serve many."""
        key = (columns.start, columns.stop, some.start)
        if self._kept_key != key:
            self._kept_key, self._kept_Jb = key, self._weights(columns, some).to(self._dtype)

    def _weights(self, rows: slice, some: slice) -> Tensor:
        """Weights of some rows in some permutations, int8."""
        return self._weights_GB[rows if self._singletons else self._group_of_N[rows], some]
