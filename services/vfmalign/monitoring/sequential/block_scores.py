"""Scores of blocks of 4 and 16 consecutive rows: small shifts that no single row shows.

A block S is scored by its MMD² with everything that it is compared with, up to a term that all subsets share:

    T(S) = mean k over S × S − 2 · mean k over S × (scoring rows ∪ pool)

and ranked among B = 999 random subsets of the pool, which contains the block. The pool begins with the bag, which is
the calibration rows and all earlier rows of the epoch; of a bag of more than 512 rows, with a random 512 of them that
are drawn anew for every 16 rows. Without drift, the block is a uniform subset of the pool like the others. The cost of
a row therefore does not grow with the bag.

Legend: D channels, N rows of the bag, P rows of the pool, R new rows, W rows of a block, B subsets.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vfmalign.monitoring.sequential.draws import Draws, Purpose, choose_subset, choose_subsets
from vfmalign.monitoring.sequential.ranks import Cell, get_cell
from vfmalign.monitoring.sequential.row_scores import RowScorer

Array = NDArray[np.float64]

WIDTHS = (Purpose.BLOCKS_OF_4, Purpose.BLOCKS_OF_16)
SUBSETS = 999
POOL_ROWS = 512
LAST_ROW = 20_000
"""Rows of an epoch after which blocks bet no more, and their rows are no longer kept; a multiple of 16."""


@dataclass
class Pool:
    """Rows that the blocks of the next 16 rows are compared with.

    Attributes:
        size: rows so far.
        z_PD: standardised rows; the first `size` are set.
        kernel_PP: their kernel values.
        sums_P: sum of each row's kernel values with the scoring rows and the pool.
    """

    size: int
    z_PD: Array
    kernel_PP: Array
    sums_P: Array

    @classmethod
    def of_bag(cls, scorer: RowScorer, z_ND: Array, scoring_sums_N: Array, draws: Draws, group: int) -> Pool:
        """Returns the pool at the beginning of a group of 16 rows, with room for them."""
        chosen = choose_subset(draws.draw_uniforms(Purpose.POOL, group, len(z_ND)), POOL_ROWS)
        room = len(chosen) + max(WIDTHS)
        pool = cls(0, np.zeros((room, z_ND.shape[1])), np.zeros((room, room)), np.zeros(room))
        pool.add(scorer, z_ND[chosen], scoring_sums_N[chosen])
        return pool

    def add(self, scorer: RowScorer, z_RD: Array, scoring_sums_R: Array) -> None:
        """Adds rows."""
        old, new = slice(0, self.size), slice(self.size, self.size + len(z_RD))
        self.z_PD[new] = z_RD
        cross_RP = scorer.get_kernel(z_RD, self.z_PD[old])
        own_RR = scorer.get_kernel(z_RD, z_RD)
        np.fill_diagonal(own_RR, 1.0)
        self.kernel_PP[new, old], self.kernel_PP[old, new], self.kernel_PP[new, new] = cross_RP, cross_RP.T, own_RR
        self.sums_P[old] += cross_RP.sum(axis=0)
        self.sums_P[new] = scoring_sums_R + cross_RP.sum(axis=1) + own_RR.sum(axis=1)
        self.size = new.stop

    def score(self, subset_WB: NDArray[np.intp], scoring_rows: int) -> Array:
        """Returns T of each subset [B]."""
        width = len(subset_WB)
        room = len(self.kernel_PP)
        pairs_B = np.zeros(subset_WB.shape[1])
        for member in range(1, width):
            pairs_B += self.kernel_PP.ravel().take(subset_WB[member] * room + subset_WB[:member]).sum(axis=0)
        # All terms are sums of multiples of 2⁻²⁰, and so without rounding error.
        within_B = (2.0 * pairs_B + width) / width**2
        scores: Array = within_B - 2.0 * self.sums_P[subset_WB].sum(axis=0) / (width * (scoring_rows + self.size))
        return scores


class BlockRanks:
    """The bag of an epoch, and the cell of each block that it completes.

    Args:
        scorer: of the reference.
        z_ND: standardised calibration rows.
        scoring_sums_N: sum of each row's kernel values with the scoring rows.

    Attributes:
        rows: rows of the stream so far.
        pool: of the unfinished group of 16 rows; None between groups.
    """

    def __init__(self, scorer: RowScorer, z_ND: Array, scoring_sums_N: Array) -> None:
        self._scorer = scorer
        self._z_ND, self._sums_N = z_ND, scoring_sums_N
        self._size = len(z_ND)
        self.rows = 0
        self.pool: Pool | None = None

    @property
    def is_active(self) -> bool:
        """Whether blocks still bet."""
        return self.rows < LAST_ROW

    @property
    def bag(self) -> tuple[Array, Array]:
        """Standardised rows of the bag, and their sums of kernel values with the scoring rows."""
        return self._z_ND[: self._size], self._sums_N[: self._size]

    @property
    def memory_rows(self) -> int:
        """Rows for which memory is taken, in the bag with its room to grow and in a pool."""
        return len(self._z_ND) + (POOL_ROWS + max(WIDTHS) if self.is_active else 0)

    def add(self, z_D: Array, scoring_sum: float, draws: Draws) -> dict[Purpose, Cell]:
        """Adds the next row of the stream and returns the cells of the blocks that it completes, by their width."""
        if not self.is_active:
            return {}
        if self.pool is None:
            self.pool = Pool.of_bag(self._scorer, *self.bag, draws, self.rows // max(WIDTHS))
        self._append(z_D, scoring_sum)
        cells = {}
        for width in WIDTHS:
            if self.rows % width == 0:
                if width == min(WIDTHS):
                    self.pool.add(self._scorer, *(part[-width:] for part in self.bag))
                cells[width] = self._rank(self.pool, width, draws)
        if self.rows % max(WIDTHS) == 0:
            self.pool = None
        if not self.is_active:
            self._z_ND, self._sums_N, self._size = self._z_ND[:0], self._sums_N[:0], 0
        return cells

    def _append(self, z_D: Array, scoring_sum: float) -> None:
        if self._size == len(self._z_ND):
            room = self._size + self._size // 2 + max(WIDTHS)
            z_ND, sums_N = np.empty((room, self._z_ND.shape[1])), np.empty(room)
            z_ND[: self._size], sums_N[: self._size] = self.bag
            self._z_ND, self._sums_N = z_ND, sums_N
        self._z_ND[self._size], self._sums_N[self._size] = z_D, scoring_sum
        self._size += 1
        self.rows += 1

    def _rank(self, pool: Pool, width: Purpose, draws: Draws) -> Cell:
        """Returns the cell of the block of the last `width` rows."""
        uniforms = draws.draw_uniforms(width, self.rows // width, width * SUBSETS + 1)
        subsets_WB = choose_subsets(uniforms[:-1].reshape(width, SUBSETS), pool.size)
        block_W1 = np.arange(pool.size - width, pool.size)[:, None]
        scoring_rows = len(self._scorer.scoring_SD)
        score, others_B = pool.score(block_W1, scoring_rows)[0], pool.score(subsets_WB, scoring_rows)
        greater, equal = int((others_B > score).sum()), int((others_B == score).sum())
        return get_cell(greater, equal, SUBSETS, float(uniforms[-1]))
