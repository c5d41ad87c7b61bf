"""wᵀTw of every relabelling w, tile by tile: statistics of relabelled samples without T. Knows no kernels.

Legend: N rows, I and J the rows and columns of one tile, G groups, B relabellings, b some of them, S bfloat16 parts.
"""

from __future__ import annotations

import threading

import torch
from torch import Tensor

from vfmalign.mmd import amx

_RELABELLINGS_AT_ONCE = 2048
_NOTHING = torch.empty(0)


class Quadratics(threading.local):
    """Sums of wᵀTw over the tiles of T; every thread has working memory of its own.

    Weights are exact in every precision. On a CPU's matrix units T becomes the mean of its tile and two bfloat16 parts,
    which are off by 2^-18 of what an entry deviates from that mean: less than T's own rounding error.
    """

    def __init__(self, weights_GB: Tensor, group_of_N: Tensor, dtype: torch.dtype, *, in_parts: bool) -> None:
        """Starts at 0.

        Args:
            weights_GB: weight of each group's rows in each relabelling (−1, 0 or 1), int8.
            group_of_N: index of each row's group.
            dtype: of the tiles.
            in_parts: whether to take a CPU's matrix units; tiles are float32 then.
        """
        self._weights_GB, self._group_of_N = weights_GB, group_of_N
        self._dtype, self._in_parts = dtype, in_parts
        self._singletons = len(group_of_N) == len(weights_GB)
        self._kept_key, self._kept_Jb, self._kept_sum_b = (0, 0, 0), _NOTHING, _NOTHING
        self._memory = torch.empty(0, dtype=torch.bfloat16)

    def of(self, tile_IJ: Tensor, rows: slice, columns: slice) -> Tensor:
        """Σ_ij w_i T_ij w_j over one tile for every relabelling, float64 [B]. May overwrite the tile."""
        found_B = torch.empty(self._weights_GB.shape[1], dtype=torch.float64, device=tile_IJ.device)
        mean = float(tile_IJ.mean()) if self._in_parts else 0.0
        parts_SIJ = self._split(tile_IJ.sub_(mean)) if self._in_parts else _NOTHING
        for start in range(0, len(found_B), _RELABELLINGS_AT_ONCE):
            some = slice(start, start + _RELABELLINGS_AT_ONCE)
            weights_Ib = self._weights(rows, some).to(self._dtype)
            self._keep(columns, some)
            if self._in_parts:
                product_Ib = torch.empty_like(weights_Ib)
                for number, part_IJ in enumerate(parts_SIJ):
                    amx.products(part_IJ, self._kept_Jb.T, product_Ib, add=number > 0)
            else:
                product_Ib = tile_IJ @ self._kept_Jb
            found_B[some] = product_Ib.mul_(weights_Ib).sum(dim=0)
            if mean:
                found_B[some] += mean * weights_Ib.sum(dim=0).double() * self._kept_sum_b
        return found_B

    def _split(self, tile_IJ: Tensor) -> Tensor:
        """The sum of two bfloat16 parts, the smaller first; overwrites the tile."""
        if self._memory.numel() < 2 * tile_IJ.numel():
            self._memory = torch.empty(2 * tile_IJ.numel(), dtype=torch.bfloat16)
        parts_SIJ = self._memory[: 2 * tile_IJ.numel()].view(2, *tile_IJ.shape)
        parts_SIJ[1].copy_(tile_IJ)
        parts_SIJ[0].copy_(tile_IJ.sub_(parts_SIJ[1]))
        return parts_SIJ

    def _keep(self, columns: slice, some: slice) -> None:
        """Weights of a tile's columns as products take them; tiles come column by column, so they serve many."""
        key = (columns.start, columns.stop, some.start)
        if self._kept_key != key:
            weights_Jb = self._weights(columns, some)
            self._kept_key, self._kept_sum_b = key, weights_Jb.sum(dim=0, dtype=torch.float64)
            self._kept_Jb = weights_Jb.to(torch.bfloat16 if self._in_parts else self._dtype)

    def _weights(self, rows: slice, some: slice) -> Tensor:
        """Weights of some rows in some relabellings, int8."""
        return self._weights_GB[rows if self._singletons else self._group_of_N[rows], some]
