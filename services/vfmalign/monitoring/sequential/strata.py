"""Ranks the rows of one stratum, such as a scanner, among earlier rows of the same stratum.

Rows, blocks and channels of a stratum are compared only with the calibration rows of this stratum and with its earlier
rows in the stream (a Mondrian conformal predictor: Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World,
2005, chapter 4). Scanner sessions, rotas and changes in the mix of scanners therefore do not affect the ranks.

The value of a channel is ranked by its bin. Each channel has 32 bins, which are bounded by quantiles of the scoring
rows. Because of the bins, the state contains only counts, not values. Values in the same bin are ordered at random, as
equal scores are.

Legend: the axes of arrays are D channels, C calibration rows and T bins.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vfmalign.monitoring.sequential.block_scores import BlockRanks
from vfmalign.monitoring.sequential.draws import Draws, Purpose
from vfmalign.monitoring.sequential.ranks import Cell, SortedScores, get_cell
from vfmalign.monitoring.sequential.row_scores import BINS, RowScorer

Array = NDArray[np.float64]


class ChannelRanks:
    """Counts how many values of each channel are in each bin.

    Args:
        edges_DT: lower end of each bin of each channel. The lower end of the first bin is −∞.
        counts_DT: number of rows with a value in or above each bin. A column of zeros follows.

    Attributes:
        counts_DT: the argument `counts_DT` plus the rows added up to now.
    """

    def __init__(self, edges_DT: Array, counts_DT: NDArray[np.uint32]) -> None:
        self._edges_DT = edges_DT
        self._every_D = np.arange(len(edges_DT))
        self.counts_DT = counts_DT

    def add(self, z_D: Array) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Adds a standardised row.

        Returns two numbers per channel: how many other rows are in a greater bin, and how many are in the same bin.
        """
        reached_DT = z_D[:, None] >= self._edges_DT
        bin_D = reached_DT.sum(axis=1) - 1
        greater_D = self.counts_DT[self._every_D, bin_D + 1].astype(np.intp)
        equal_D = self.counts_DT[self._every_D, bin_D].astype(np.intp) - greater_D
        self.counts_DT[:, :-1] += reached_DT
        return greater_D, equal_D


class Stratum:
    """The ranks of the rows of one stratum.

    Args:
        row_scores: scores of the calibration rows and of the stream.
        blocks: ranks of blocks; None after blocks are no longer scored.
        channels: ranks of channels.

    Attributes:
        rows: number of rows of the stream up to now.
    """

    def __init__(self, row_scores: SortedScores, blocks: BlockRanks | None, channels: ChannelRanks, rows: int = 0):
        self.row_scores, self.blocks, self.channels, self.rows = row_scores, blocks, channels, rows

    @classmethod
    def of_calibration(cls, scorer: RowScorer, z_CD: Array) -> Stratum:
        """Builds a stratum from standardised calibration rows. The stratum has no rows of the stream yet."""
        scores, sums = np.array([scorer.score(z_D) for z_D in z_CD]).reshape(-1, 2).T
        channels = len(scorer.mean_D)
        ranks = ChannelRanks(scorer.edges_DT, np.zeros((channels, BINS + 1), np.uint32))
        for z_D in z_CD:
            ranks.add(z_D)
        return cls(SortedScores(scores), BlockRanks(scorer, z_CD, sums), ranks)

    def rank_row(self, score: float, draws: Draws, number: int) -> Cell:
        """Adds the score of a row, and returns its cell."""
        greater, equal = self.row_scores.count(score)
        uniform = float(draws.draw_uniforms(Purpose.TIES, number, 1)[0]) if equal else 0.0
        others = len(self.row_scores)
        self.row_scores.add(score)
        self.rows += 1
        return get_cell(greater, equal, others, uniform)

    def rank_channels(self, z_D: Array, draws: Draws, number: int) -> tuple[Array, Array]:
        """Adds a row. Returns the lower and the upper end of the cell of each channel. Call it after `rank_row`."""
        greater_D, equal_D = self.channels.add(z_D)
        uniforms_D = draws.draw_uniforms(Purpose.CHANNELS, number, len(z_D))
        above_D = greater_D + (uniforms_D * (equal_D + 1)).astype(np.intp)
        others = len(self.row_scores)
        return above_D / others, (above_D + 1) / others
