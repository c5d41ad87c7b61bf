"""One epoch of a monitor: the reference, the rows since the epoch began, and their evidence."""

from __future__ import annotations

import heapq
from collections import Counter

import numpy as np
from numpy.typing import NDArray

from vfmalign.monitoring.sequential.betting import CHANNEL_THETAS, THETAS, Martingale, ShiryaevRoberts, get_bets
from vfmalign.monitoring.sequential.block_scores import LAST_ROW
from vfmalign.monitoring.sequential.draws import Draws, Purpose
from vfmalign.monitoring.sequential.first_rows import get_first_p_value
from vfmalign.monitoring.sequential.records import SEQUENTIAL, Alarm, Component, EpochStart, ExtremeRow
from vfmalign.monitoring.sequential.references import MAX_STRATA, Reference
from vfmalign.monitoring.sequential.strata import Stratum

EXTREME_ROWS = 20
MOST_STRATA = 2 * MAX_STRATA
"""Maximum number of strata of an epoch. Rows of further strata are ranked as rows of an unknown stratum."""
UNKNOWN = ""
_COMPONENTS_BY_WIDTH = {
    Purpose.BLOCKS_OF_4: Component.BLOCKS_OF_4,
    Purpose.BLOCKS_OF_16: Component.BLOCKS_OF_16,
}
_ROWS_OF_CELLS = {component: int(width) for width, component in _COMPONENTS_BY_WIDTH.items()}

Statistic = Martingale | ShiryaevRoberts


class Epoch:
    """Ranks and evidence of one epoch.

    Args:
        draws: random numbers of the epoch.
        start: why it began.
        reference: prepared reference.
        by_run_length: whether a run length, and not α, sets the thresholds of the alarm. The evidence is then the
            statistic for a run length.

    Attributes:
        evidence: evidence of the sequential components.
        first_p_value: p-value of the test of the first rows; None before the test.
        rows: number of rows that are part of the evidence.
        alarm: first alarm of the epoch. The monitor sets this attribute.
        extreme_rows: a heap of the most extreme rows.
    """

    def __init__(self, draws: Draws, start: EpochStart, reference: Reference, *, by_run_length: bool = False) -> None:
        self.draws, self.start, self.reference = draws, start, reference
        self.strata = {
            name: Stratum.of_calibration(
                reference.scorer, reference.calibration_CD[[one == name for one in reference.strata]]
            )
            for name in sorted(set(reference.strata))
        }
        channels = len(reference.scorer.mean_D)
        self.evidence = {
            component: make_statistic(component, channels, by_run_length=by_run_length) for component in SEQUENTIAL
        }
        self.first_p_value: float | None = None
        self.rows = 0
        self.alarm: Alarm | None = None
        self.extreme_rows: list[ExtremeRow] = []

    @property
    def blocks_are_active(self) -> bool:
        """Whether blocks still bet."""
        return self.rows < LAST_ROW

    def count_strata(self) -> tuple[dict[str, int], dict[str, int]]:
        """Maps each stratum to two numbers: its calibration rows, and its rows in the epoch. Empty without strata."""
        if not self.reference.is_stratified:
            return {}, {}
        return dict(Counter(self.reference.strata)), {name: one.rows for name, one in self.strata.items()}

    @property
    def memory_bytes(self) -> int:
        """Approximate memory that the rows and the counts need, in bytes."""
        strata = self.strata.values()
        blocks = sum(one.blocks.memory_bytes for one in strata if one.blocks is not None)
        return blocks + sum(one.channels.counts_DT.nbytes for one in strata)

    def add(self, row_D: NDArray[np.float64], observation: str, stratum: str) -> float:
        """Adds a finite row and returns its p-value."""
        scorer = self.reference.scorer
        z_D = scorer.standardise(row_D)
        score, scoring_sum = scorer.score(z_D)
        self.rows += 1
        ranks = self._get_stratum(stratum)
        cell = ranks.rank_row(score, self.draws, self.rows)
        self.evidence[Component.ROWS].update(get_bets(*cell, mirrored=True))
        ends = ranks.rank_channels(z_D, self.draws, self.rows)
        self.evidence[Component.CHANNELS].update(get_bets(*ends, mirrored=True, thetas=CHANNEL_THETAS))
        if ranks.blocks is not None:
            for width, block_cell in ranks.blocks.add(z_D, scoring_sum, self.draws, self.rows).items():
                self.evidence[_COMPONENTS_BY_WIDTH[width]].update(get_bets(*block_cell, mirrored=False))
        if not self.blocks_are_active:
            for one in self.strata.values():
                one.blocks = None
        extreme = ExtremeRow(score, self.rows, observation, cell.upper)
        if len(self.extreme_rows) < EXTREME_ROWS:
            heapq.heappush(self.extreme_rows, extreme)
        else:
            heapq.heappushpop(self.extreme_rows, extreme)
        return cell.upper

    def compare_first(self, level: float) -> None:
        """Compares the first rows of the stream with the calibration rows; see `first_rows`. Runs only once."""
        self.first_p_value = get_first_p_value(self.reference.scorer, self.strata, self.draws, level)

    def _get_stratum(self, name: str) -> Stratum:
        if not self.reference.is_stratified or (name not in self.strata and len(self.strata) >= MOST_STRATA):
            name = UNKNOWN
        if name not in self.strata:
            self.strata[name] = Stratum.of_calibration(self.reference.scorer, self.reference.calibration_CD[:0])
        return self.strata[name]


def make_statistic(component: Component, channels: int, *, by_run_length: bool) -> Statistic:
    """Returns the statistic of a component before its first cell."""
    bets, streams = {
        Component.ROWS: (2 * len(THETAS), 1),
        Component.CHANNELS: (2 * len(CHANNEL_THETAS), channels),
    }.get(component, (len(THETAS), 1))
    if by_run_length:
        return ShiryaevRoberts(bets, _ROWS_OF_CELLS.get(component, 1), streams)
    return Martingale(bets, streams)
