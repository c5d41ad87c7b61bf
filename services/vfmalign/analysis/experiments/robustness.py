"""Robustness of a correlation (descriptive): ρ without the units that determine its sign, and with common baselines."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from vfmalign.analysis.experiments.cells import Cell
from vfmalign.analysis.experiments.rank_correlation import Stratum, mean_correlation
from vfmalign.analysis.experiments.strata import get_common_units, restrict_units
from vfmalign.analysis.gains.limits import absent_below_floor
from vfmalign.analysis.gains.paired_scores import pair_scores
from vfmalign.client.messages.common import Estimate
from vfmalign.core.domain.jobs import CaseScore
from vfmalign.core.domain.record import Record
from vfmalign.core.domain.scores import aggregate_resamples

MAX_LEFT_OUT = 2
"""Largest number of units to leave out together."""
MIN_LEFT = 3
"""Minimum number of units that remain."""


class Reversal(Record):
    """The few units whose removal changes the sign of a mean ρ.

    Attributes:
        without: the smallest set of units whose removal changes the sign.
        rho: mean ρ of all other units. If several sets of this size change the sign, `rho` is the most extreme mean ρ.
    """

    without: tuple[str, ...]
    rho: float


class CommonBaselines(Record):
    """The specialised networks of the experiment's tasks and seeds.

    Attributes:
        several: number of pairs of task and seed in which models were compared with different specialised networks.
        total: number of pairs of task and seed.
    """

    several: int
    total: int


def find_reversal(strata: Sequence[Stratum]) -> Reversal | None:
    """Finds the smallest set of units whose removal changes the sign of the mean ρ; None if larger than `MAX_LEFT_OUT`.

    Args:
        strata: strata with the same units, each with a defined ρ.
    """
    rho, units = mean_correlation(strata), sorted(get_common_units(strata))
    if not rho:
        return None
    for count in range(1, min(MAX_LEFT_OUT, len(units) - MIN_LEFT) + 1):
        reversals = [
            Reversal(without=without, rho=other)
            for without in combinations(units, count)
            if (other := mean_correlation(restrict_units(strata, frozenset(units) - set(without)))) is not None
            and rho * other < 0
        ]
        if reversals:
            return max(reversals, key=lambda reversal: abs(reversal.rho))
    return None


def count_baselines(cells: Sequence[Cell]) -> CommonBaselines:
    """Counts the pairs of task and seed in which models were compared with different specialised networks."""
    baselines: dict[tuple[str, int], list[tuple[CaseScore, ...]]] = {}
    for cell in cells:
        others = baselines.setdefault((cell.task, cell.seed), [])
        if cell.scores["specialised"] not in others:
            others.append(cell.scores["specialised"])
    return CommonBaselines(several=sum(len(others) > 1 for others in baselines.values()), total=len(baselines))


def use_common_baselines(cells: Sequence[Cell]) -> list[Cell]:
    """Recomputes the gains with one baseline per task and seed: the specialised network of the first model by name."""
    common: dict[tuple[str, int], tuple[CaseScore, ...]] = {}
    result = []
    for cell in sorted(cells, key=lambda cell: (cell.task, cell.model_id, cell.seed)):
        baseline = common.setdefault((cell.task, cell.seed), cell.scores["specialised"])
        if baseline == cell.scores["specialised"]:
            result.append(cell)
        else:
            result.append(cell.model_copy(update={"gain": _get_relative_gain(cell, baseline)}))
    return result


def _get_relative_gain(cell: Cell, baseline: Sequence[CaseScore]) -> Estimate:
    """The gain in per cent, without an interval."""
    metric = cell.metric
    pairs = pair_scores(cell.scores["pretrained"], baseline, metric)
    weight_1N = np.ones((1, len(pairs.groups)))
    score, reference = (
        float(aggregate_resamples(metric, value_N, pairs.truth_N, weight_1N)[0])
        for value_N in (pairs.score_N, pairs.baseline_N)
    )
    sign = 1.0 if metric.higher_is_better else -1.0
    return absent_below_floor(metric, abs(reference)) or Estimate(
        value=100.0 * sign * (score - reference) / abs(reference)
    )
