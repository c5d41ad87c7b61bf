"""Score against the number of training cases, for each model, task and network."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from vfmalign.analysis.experiments.cells import GAIN_NETWORKS, Cell
from vfmalign.analysis.gains.crossed_gain import estimate_crossed_score
from vfmalign.client.messages.common import Estimate
from vfmalign.core.domain.jobs import Network
from vfmalign.core.domain.record import Record


class LabelPoint(Record):
    """Mean test score of one network after trainings with one number of training cases.

    Attributes:
        train_cases: requested number of training cases; 0 for all.
        fewest, most: smallest and largest number of cases that a training of a seed used. Patients stay together, so
            these numbers may be larger than the requested number.
        score: mean over the seeds, with an interval over seeds and patients.
    """

    model_id: str
    task: str
    network: Network
    train_cases: int
    fewest: int
    most: int
    seeds: int
    score: Estimate


class LabelEfficiency(Record):
    """Scores against the number of training cases.

    Attributes:
        counts: requested numbers of training cases, ascending; 0, for all, comes last.
        main: number of training cases of the cells for all other results of the report; 0 for all.
        train_size: number of cases of `train`.
        points: sorted by task, model, number of training cases and network.
    """

    counts: tuple[int, ...]
    main: int
    train_size: int
    points: tuple[LabelPoint, ...]


def get_main_count(counts: Sequence[int]) -> int:
    """Returns the number of training cases for everything but the label curve: 0 (all), or else the largest number."""
    return 0 if 0 in counts else max(counts)


def measure_label_efficiency(
    cells: Sequence[Cell], counts: Sequence[int], train_size: int, level: float
) -> LabelEfficiency:
    """Averages the scores of all networks over the seeds.

    Args:
        cells: cells with all numbers of training cases.
        counts: requested numbers of training cases; 0 for all.
        train_size: number of cases of `train`.
        level: nominal coverage of the intervals, in (0, 1).
    """

    def get_order(cell: Cell) -> tuple[str, str, int]:
        return cell.task, cell.model_id, cell.train_cases or train_size + 1

    points = []
    for _, group in groupby(sorted(cells, key=get_order), get_order):
        members = sorted(group, key=lambda cell: cell.seed)
        first, sizes = members[0], [cell.subset_size or train_size for cell in members]
        points += [
            LabelPoint(
                model_id=first.model_id,
                task=first.task,
                network=network,
                train_cases=first.train_cases,
                fewest=min(sizes),
                most=max(sizes),
                seeds=len(members),
                score=estimate_crossed_score([cell.scores[network] for cell in members], first.metric, level=level),
            )
            for network in GAIN_NETWORKS
        ]
    return LabelEfficiency(
        counts=tuple(sorted(counts, key=lambda count: count or train_size + 1)),
        main=get_main_count(counts),
        train_size=train_size,
        points=tuple(points),
    )
