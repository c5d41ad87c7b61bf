"""One epoch of a monitor: a reference, the rows since its start, and their evidence."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vfmalign.monitoring.sequential.betting import THETAS, Martingale, ShiryaevRoberts, get_bets
from vfmalign.monitoring.sequential.block_scores import BlockRanks
from vfmalign.monitoring.sequential.draws import Draws, Purpose
from vfmalign.monitoring.sequential.ranks import Cell, SortedScores, get_cell
from vfmalign.monitoring.sequential.records import Alarm, Component, EpochStart, ExtremeRow
from vfmalign.monitoring.sequential.references import Reference
from vfmalign.monitoring.sequential.stratum_mix import StratumMix

EXTREME_ROWS = 20
_ROWS_OF_CELLS = {Component.ROWS: 1, Component.BLOCKS_OF_4: 4, Component.BLOCKS_OF_16: 16}
_COMPONENTS_BY_WIDTH = {
    Purpose.BLOCKS_OF_4: Component.BLOCKS_OF_4,
    Purpose.BLOCKS_OF_16: Component.BLOCKS_OF_16,
}


@dataclass
class Evidence:
    """Both statistics of one component."""

    martingale: Martingale
    run_length: ShiryaevRoberts

    def update(self, cell: Cell, *, mirrored: bool) -> None:
        """Takes the next cell."""
        bets_S = get_bets(cell, mirrored=mirrored)
        self.martingale.update(bets_S)
        self.run_length.update(bets_S)


class Epoch:
    """Ranks and evidence of one epoch.

    Args:
        draws: of the epoch.
        start: why it began.
        reference: prepared.

    Attributes:
        rows: that entered.
        alarm: the first one; the monitor sets it.
        extreme_rows: a heap of the most extreme rows.
    """

    def __init__(self, draws: Draws, start: EpochStart, reference: Reference) -> None:
        self.draws, self.start, self.reference = draws, start, reference
        scored = [reference.scorer.score(z_D) for z_D in reference.calibration_CD]
        scores, sums = np.array(scored).T
        self.row_scores = SortedScores(scores)
        self.blocks = BlockRanks(reference.scorer, reference.calibration_CD, sums)
        self.evidence = {component: make_evidence(component) for component in Component}
        self.mix = StratumMix(reference.scoring_strata, reference.calibration_strata)
        self.rows = 0
        self.alarm: Alarm | None = None
        self.extreme_rows: list[ExtremeRow] = []

    def add(self, row_D: NDArray[np.float64], observation: str, stratum: str) -> float:
        """Adds a finite row and returns its p-value."""
        z_D = self.reference.scorer.standardise(row_D)
        score, scoring_sum = self.reference.scorer.score(z_D)
        self.rows += 1
        cell = self._rank(score)
        self.row_scores.add(score)
        self.evidence[Component.ROWS].update(cell, mirrored=True)
        for width, block_cell in self.blocks.add(z_D, scoring_sum, self.draws).items():
            self.evidence[_COMPONENTS_BY_WIDTH[width]].update(block_cell, mirrored=False)
        self.mix.add(stratum)
        extreme = ExtremeRow(score, self.rows, observation, cell.upper)
        if len(self.extreme_rows) < EXTREME_ROWS:
            heapq.heappush(self.extreme_rows, extreme)
        else:
            heapq.heappushpop(self.extreme_rows, extreme)
        return cell.upper

    def _rank(self, score: float) -> Cell:
        greater, equal = self.row_scores.count(score)
        uniform = float(self.draws.draw_uniforms(Purpose.TIES, self.rows, 1)[0]) if equal else 0.0
        return get_cell(greater, equal, len(self.row_scores), uniform)


def make_evidence(component: Component) -> Evidence:
    """Returns the evidence of a component before its first cell."""
    bets = len(THETAS) * (2 if component is Component.ROWS else 1)
    return Evidence(Martingale(bets), ShiryaevRoberts(bets, _ROWS_OF_CELLS[component]))
