"""Scores of blocks of 4 and 16 rows of a stratum. They detect shifts that are too small to show in single rows.

Consecutive rows of a block are not neighbours in their stratum. In a block of 4, their distance is 16 rows. In a block
of 16, their distance is 8 rows. If a scanner works in sessions, neighbouring rows resemble each other. A block of
neighbours would then differ from random subsets even without drift. Rows at this distance form a *lane*. Each lane is
divided into blocks. The lanes do not begin at the same row, so their blocks do not end at the same row.

The score of a block S is its MMD² to the scoring rows and the pool, without a term that is equal for all subsets:

    T(S) = mean k over S × S − 2 · mean k over S × (scoring rows ∪ pool)

The score is ranked among the scores of B = 999 random subsets of the pool. The pool contains the block. The pool is
drawn from a bag. The bag contains the calibration rows of the stratum, and the rows of the stratum's earlier blocks of
this width. A pool starts with all rows of the bag, or with 256 random rows if the bag is larger. Later blocks are added
to the pool. After 64 added rows, a new pool is drawn. Without drift, the block is a uniform random subset of the pool,
as are the other subsets. The cost of a row does not grow with the bag.

Legend: the axes of arrays are D channels, N rows of a stratum, P rows of the pool, R new rows, W rows of a block and B
subsets.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vfmalign.monitoring.sequential.draws import Draws, Purpose, choose_subset, choose_subsets
from vfmalign.monitoring.sequential.ranks import Cell, get_cell
from vfmalign.monitoring.sequential.row_scores import RowScorer

Array = NDArray[np.float64]

SPACINGS = {Purpose.BLOCKS_OF_4: 16, Purpose.BLOCKS_OF_16: 8}
"""Maps the width of a block to the distance between consecutive rows of the block."""
SUBSETS = 999
POOL_ROWS = 256
NEW_POOL_ROWS = 64
"""Number of rows added to a pool before a new pool is drawn."""
LAST_ROW = 20_000
"""Number of rows of an epoch after which blocks stop betting, and their rows are dropped."""


def get_block(row: int, width: int, spacing: int) -> NDArray[np.intp] | None:
    """Returns the rows of the block that a row completes, in ascending order. None if the row completes no block.

    Args:
        row: number of the row in the stratum, starting at 0.
        width: rows of a block.
        spacing: number of lanes.
    """
    lane, place = row % spacing, row // spacing
    start = lane * max(1, width // spacing) % width  # first position of the lane's blocks
    first = place + 1 - width
    if first < start or (first - start) % width:
        return None
    return lane + spacing * np.arange(first, place + 1)


@dataclass
class Pool:
    """Pool of rows. Random subsets are drawn from the pool and compared with a block.

    Attributes:
        size: number of rows in the pool.
        room: maximum number of rows.
        row_P: index of each row of the pool in the list of the stratum's rows. In this list, calibration rows come
            first. Only the first `size` entries are used.
        z_PD: standardised rows.
        kernel_PP: kernel values between the rows of the pool.
        sums_P: for each row of the pool, the sum of its kernel values with the scoring rows and the pool.
    """

    size: int
    room: int
    row_P: NDArray[np.intp]
    z_PD: Array
    kernel_PP: Array
    sums_P: Array

    @classmethod
    def empty(cls, room: int, channels: int) -> Pool:
        """Returns a pool without rows."""
        rows, sums = np.zeros(room, np.intp), np.zeros(room)
        return cls(0, room, rows, np.zeros((room, channels)), np.zeros((room, room)), sums)

    def add(self, scorer: RowScorer, row_R: NDArray[np.intp], z_RD: Array, scoring_sums_R: Array) -> None:
        """Adds rows."""
        old, new = slice(0, self.size), slice(self.size, self.size + len(z_RD))
        self.row_P[new], self.z_PD[new] = row_R, z_RD
        cross_RP = scorer.get_kernel(z_RD, self.z_PD[old])
        own_RR = scorer.get_kernel(z_RD, z_RD)
        np.fill_diagonal(own_RR, 1.0)
        self.kernel_PP[new, old], self.kernel_PP[old, new], self.kernel_PP[new, new] = cross_RP, cross_RP.T, own_RR
        self.sums_P[old] += cross_RP.sum(axis=0)
        self.sums_P[new] = scoring_sums_R + cross_RP.sum(axis=1) + own_RR.sum(axis=1)
        self.size = new.stop

    def score(self, subset_WB: NDArray[np.intp], scoring_rows: int) -> Array:
        """Returns the statistic T of each subset, [B]."""
        width = len(subset_WB)
        pairs_B = np.zeros(subset_WB.shape[1])
        for member in range(1, width):
            pairs_B += self.kernel_PP.ravel().take(subset_WB[member] * self.room + subset_WB[:member]).sum(axis=0)
        # All terms are sums of multiples of 2⁻²⁰, and therefore exact.
        within_B = (2.0 * pairs_B + width) / width**2
        scores: Array = within_B - 2.0 * self.sums_P[subset_WB].sum(axis=0) / (width * (scoring_rows + self.size))
        return scores


class BlockRanks:
    """The rows of a stratum in an epoch. The object computes the cell of each block that a row completes.

    Args:
        scorer: scorer of the reference.
        z_ND: standardised calibration rows of the stratum.
        scoring_sums_N: for each row, the sum of its kernel values with the scoring rows.
        rows: number of rows at the end of `z_ND` that are rows of the stream. Only a restored state has such rows.

    Attributes:
        calibration: number of calibration rows.
        rows: number of rows of the stream up to now.
        pools: current pools by width.
    """

    def __init__(self, scorer: RowScorer, z_ND: Array, scoring_sums_N: Array, rows: int = 0) -> None:
        self._scorer = scorer
        self._z_ND, self._sums_N, self._size = z_ND, scoring_sums_N, len(z_ND)
        self.calibration, self.rows = len(z_ND) - rows, rows
        self.pools: dict[Purpose, Pool] = {}
        self._bags: dict[Purpose, list[int]] = {}
        for width, spacing in SPACINGS.items():
            blocks = (get_block(row, width, spacing) for row in range(rows))
            self._bags[width] = list(range(self.calibration))
            self._bags[width] += [self.calibration + int(row) for block in blocks if block is not None for row in block]

    @property
    def stored_rows(self) -> tuple[Array, Array]:
        """Standardised rows (calibration rows first), and each row's sum of kernel values with the scoring rows."""
        return self._z_ND[: self._size], self._sums_N[: self._size]

    @property
    def memory_bytes(self) -> int:
        """Memory of the pools and of the rows in bytes, including reserved space."""
        return self._z_ND.nbytes + sum(pool.z_PD.nbytes + pool.kernel_PP.nbytes for pool in self.pools.values())

    def add(self, z_D: Array, scoring_sum: float, draws: Draws, number: int) -> dict[Purpose, Cell]:
        """Adds the next row of the stratum.

        Maps the width of each block to its cell, for the blocks that this row completes.

        Args:
            z_D: standardised row.
            scoring_sum: sum of the row's kernel values with the scoring rows.
            draws: random numbers of the epoch.
            number: number of the row in the epoch.
        """
        self._append(z_D, scoring_sum)
        cells = {}
        for width, spacing in SPACINGS.items():
            block_W = get_block(self.rows - 1, width, spacing)
            if block_W is not None:
                cells[width] = self._rank(width, self.calibration + block_W, draws, number)
        return cells

    def _append(self, z_D: Array, scoring_sum: float) -> None:
        if self._size == len(self._z_ND):
            room = self._size + self._size // 2 + 16
            z_ND, sums_N = np.empty((room, len(z_D))), np.empty(room)
            z_ND[: self._size], sums_N[: self._size] = self.stored_rows
            self._z_ND, self._sums_N = z_ND, sums_N
        self._z_ND[self._size], self._sums_N[self._size] = z_D, scoring_sum
        self._size += 1
        self.rows += 1

    def _rank(self, width: Purpose, block_W: NDArray[np.intp], draws: Draws, number: int) -> Cell:
        """Returns the cell of a block, and adds it to pool and bag."""
        pool = self.pools.get(width)
        if pool is None:
            bag = np.array(self._bags[width], np.intp)
            chosen = bag[choose_subset(draws.draw_uniforms(Purpose.POOL + width, number, len(bag)), POOL_ROWS)]
            pool = self.pools[width] = Pool.empty(len(chosen) + NEW_POOL_ROWS, self._z_ND.shape[1])
            pool.add(self._scorer, chosen, self._z_ND[chosen], self._sums_N[chosen])
        pool.add(self._scorer, block_W, self._z_ND[block_W], self._sums_N[block_W])
        uniforms = draws.draw_uniforms(width, number, width * SUBSETS + 1)
        subsets_WB = choose_subsets(uniforms[:-1].reshape(width, SUBSETS), pool.size)
        own_W1 = np.arange(pool.size - width, pool.size)[:, None]
        scoring_rows = len(self._scorer.scoring_SD)
        score, others_B = pool.score(own_W1, scoring_rows)[0], pool.score(subsets_WB, scoring_rows)
        self._bags[width] += block_W.tolist()
        if pool.size + width > pool.room:
            del self.pools[width]
        return get_cell(int((others_B > score).sum()), int((others_B == score).sum()), SUBSETS, float(uniforms[-1]))
