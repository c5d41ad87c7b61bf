"""Test scores of a network and of a baseline, paired case by case. Legend: the axes are S seeds and N cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vfmalign.core.domain.errors import CaseOrderMismatch, InvalidInput
from vfmalign.core.domain.jobs import CaseScore, MetricSpec
from vfmalign.core.domain.scores import Truth, get_truth

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PairedScores:
    """One metric of a network and a baseline, on the cases for which both networks have a value.

    Attributes:
        score_N: metric of the network for each case.
        baseline_N: metric of the baseline for each case.
        groups: patient of each case.
        left_out: number of cases that lack a value of either network.
        truth_N: true class, grade or number of each case, as the metric needs it; 0 if it needs none.
    """

    score_N: Array
    baseline_N: Array
    groups: tuple[str, ...]
    left_out: int
    truth_N: Truth


def pair_scores(scores: Sequence[CaseScore], baseline: Sequence[CaseScore], metric: MetricSpec) -> PairedScores:
    """Pairs the test scores of two networks case by case.

    Raises:
        CaseOrderMismatch: the networks were not scored on the same cases in the same order.
        InvalidInput: a case has no entry for the metric.
    """
    if [(c.case, c.group) for c in scores] != [(c.case, c.group) for c in baseline]:
        raise CaseOrderMismatch(
            "the network and its baseline were not scored on the same test cases in the same order",
            subject="test_scores",
            remedy="run both jobs on the same dataset digest",
        )
    for case in (*scores, *baseline):
        if metric.name not in case.values:
            raise InvalidInput(
                f"case {case.case} has no value of metric {metric.name!r}",
                field="test_scores",
                remedy="score both networks with the metrics of the task",
            )
    pairs = [
        (
            score.values[metric.name],
            other.values[metric.name],
            score.group,
            get_truth(metric, score.positive, score.truth),
        )
        for score, other in zip(scores, baseline, strict=True)
        if score.values[metric.name] is not None and other.values[metric.name] is not None
    ]
    return PairedScores(
        score_N=np.array([pair[0] for pair in pairs], dtype=np.float64),
        baseline_N=np.array([pair[1] for pair in pairs], dtype=np.float64),
        groups=tuple(pair[2] for pair in pairs),
        left_out=len(scores) - len(pairs),
        truth_N=np.array([pair[3] for pair in pairs], dtype=np.float64),
    )


@dataclass(frozen=True)
class CrossedScores:
    """One metric of a network and a baseline with each of their seeds, on the cases that have every value.

    Attributes:
        score_SN: metric of the network per seed and case.
        baseline_SN: metric of the baseline per seed and case. The baseline may have more seeds than the network.
        groups: patient of each case.
        left_out: number of cases that lack a value of either network.
        truth_N: see `PairedScores`.
    """

    score_SN: Array
    baseline_SN: Array
    groups: tuple[str, ...]
    left_out: int
    truth_N: Truth

    @property
    def index_N(self) -> npt.NDArray[np.intp]:
        """Index of each case's patient. Patients are numbered in the order of their ids."""
        return np.unique(np.array(self.groups), return_inverse=True)[1]


def pair_seeds(
    scores: Sequence[Sequence[CaseScore]], baselines: Sequence[Sequence[CaseScore]], metric: MetricSpec
) -> CrossedScores:
    """Pairs the test scores of two networks case by case, for all of their seeds.

    The crossed analysis must be balanced: if a case's score is undefined for any seed of either network, the case is
    left out for all seeds.

    Args:
        scores: scores of the network, one object per seed.
        baselines: scores of the baseline, one object per seed.
        metric: the metric.

    Raises:
        CaseOrderMismatch, InvalidInput: see `pair_scores`.
    """
    for other in (*scores[1:], *baselines):
        pair_scores(scores[0], other, metric)  # the same cases in the same order
    value_SN, base_SN = (
        np.array([[case.values[metric.name] for case in one] for one in network], dtype=np.float64)
        for network in (scores, baselines)
    )
    # Scores are finite or None; None becomes NaN in an array.
    defined_N: npt.NDArray[np.bool_] = np.logical_and.reduce(~np.isnan(np.vstack([value_SN, base_SN])))
    cases = [case for case, defined in zip(scores[0], defined_N, strict=True) if defined]
    value_SN, base_SN = value_SN[:, defined_N], base_SN[:, defined_N]
    groups = np.array([case.group for case in cases])
    truth_N = np.array([get_truth(metric, case.positive, case.truth) for case in cases], dtype=np.float64)
    # Floating-point sums depend on the order of the cases.
    order_N = np.lexsort((*base_SN, *value_SN, groups))
    return CrossedScores(
        score_SN=value_SN[:, order_N],
        baseline_SN=base_SN[:, order_N],
        groups=tuple(groups[order_N].tolist()),
        left_out=len(defined_N) - len(cases),
        truth_N=truth_N[order_N],
    )
