"""Statistics wᵀTw of permuted samples, where w contains the weights of a permutation.

T is computed tile by tile and never stored as a whole.

Legend: N rows, I rows and J columns of one tile, G groups, B permutations; b is a range of permutations.
"""

from __future__ import annotations

import threading

import torch
from torch import Tensor

from vfmalign.core.runtime.work_context import UNLIMITED, WorkContext

_PERMUTATIONS_AT_ONCE = 2048


class QuadraticForms(threading.local):
    """Evaluates wᵀTw for tiles of T. Each thread caches its own converted weights.

    Args:
        weights_GB: weight of each group's rows in each permutation (−1, 0 or 1), int8.
        group_of_N: index of each row's group.
        dtype: data type of the tiles.
    """

    def __init__(self, weights_GB: Tensor, group_of_N: Tensor, dtype: torch.dtype) -> None:
        self._weights_GB, self._group_of_N = weights_GB, group_of_N
        self._dtype = dtype
        self._singletons = len(group_of_N) == len(weights_GB)
        self._column_weights: tuple[tuple[int, int, int], Tensor] | None = None

    def evaluate(self, tile_IJ: Tensor, rows: slice, columns: slice, context: WorkContext = UNLIMITED) -> Tensor:
        """Returns Σ_ij w_i T_ij w_j of one tile for every permutation, float64 [B].

        Checks `context` after every few permutations, because 100,000 permutations of one tile take minutes.
        """
        sums_B = torch.empty(self._weights_GB.shape[1], dtype=torch.float64, device=tile_IJ.device)
        for start in range(0, len(sums_B), _PERMUTATIONS_AT_ONCE):
            context.checkpoint()
            span = slice(start, start + _PERMUTATIONS_AT_ONCE)
            weights_Ib = self._weights(rows, span).to(self._dtype)
            product_Ib = tile_IJ @ self._get_column_weights(columns, span)
            sums_B[span] = product_Ib.mul_(weights_Ib).sum(dim=0)
        return sums_B

    def _get_column_weights(self, columns: slice, span: slice) -> Tensor:
        """Returns the weights of a tile's columns in the dtype of the tiles.

        The most recent weights are cached, because consecutive tiles often have the same columns.
        """
        key = (columns.start, columns.stop, span.start)
        if self._column_weights is None or self._column_weights[0] != key:
            self._column_weights = key, self._weights(columns, span).to(self._dtype)
        return self._column_weights[1]

    def _weights(self, rows: slice, span: slice) -> Tensor:
        """Returns the weights of a range of rows in a range of permutations, int8."""
        return self._weights_GB[rows if self._singletons else self._group_of_N[rows], span]
