"""Gain of a fine-tuned network over a baseline that were both trained with several seeds.

Scores are means over the seeds. The intervals cover patients and training (`crossed`); that of the relative gain
follows by the delta method. Legend: S seeds, N cases, G groups (patients).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vfmalign.client.messages.checks import Gain, GainVariance
from vfmalign.client.messages.common import Estimate, absent
from vfmalign.core.domain.jobs import CaseScore, MetricSpec
from vfmalign.core.domain.scores import aggregate_resamples
from vfmalign.finetuning.analysis.crossed import CrossedVariance, analyse_crossed, get_pseudo_values
from vfmalign.finetuning.analysis.equivalence import allow_for_unseen_differences
from vfmalign.finetuning.analysis.gain import (
    absent_below_floor,
    equivalence_level,
    explain_few_patients,
    explain_floor,
    pair_scores,
)

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class CrossedScores:
    """One metric of a network and of a baseline with every seed, on the cases where all of them are defined.

    Attributes:
        score_SN: metric of the network with each seed.
        baseline_SN: metric of the baseline with each seed.
        groups: patient of each case.
        left_out: number of cases where a value is undefined.
        positive_N: class of each case; all False where the task has no classes.
    """

    score_SN: Array
    baseline_SN: Array
    groups: tuple[str, ...]
    left_out: int
    positive_N: npt.NDArray[np.bool_]

    @property
    def index_N(self) -> npt.NDArray[np.intp]:
        """Patient of each case, numbered in the order of their ids."""
        return np.unique(np.array(self.groups), return_inverse=True)[1]


def pair_seeds(
    scores: Sequence[Sequence[CaseScore]], baselines: Sequence[Sequence[CaseScore]], metric: str
) -> CrossedScores:
    """Pairs the test scores of two networks with every seed, case by case.

    A case that is undefined with one seed of either network is left out of all: the crossed analysis is balanced.

    Args:
        scores: of the network, with each seed.
        baselines: of the baseline, with as many seeds.
        metric: its name.

    Raises:
        CaseOrderMismatch, InvalidInput: see `gain.pair_scores`.
    """
    for other in (*scores[1:], *baselines):
        pair_scores(scores[0], other, metric)  # the same cases in the same order
    value_SN, base_SN = (
        np.array([[case.values[metric] for case in one] for one in network], dtype=np.float64)
        for network in (scores, baselines)
    )
    # Scores are finite or None, which is NaN in an array.
    defined_N: npt.NDArray[np.bool_] = np.logical_and.reduce(~np.isnan(np.vstack([value_SN, base_SN])))
    cases = [case for case, defined in zip(scores[0], defined_N, strict=True) if defined]
    value_SN, base_SN = value_SN[:, defined_N], base_SN[:, defined_N]
    groups = np.array([case.group for case in cases])
    positive_N = np.array([bool(case.positive) for case in cases], dtype=np.bool_)
    # Floating-point sums depend on the order of the cases.
    order_N = np.lexsort((*base_SN, *value_SN, groups))
    return CrossedScores(
        score_SN=value_SN[:, order_N],
        baseline_SN=base_SN[:, order_N],
        groups=tuple(groups[order_N].tolist()),
        left_out=len(defined_N) - len(cases),
        positive_N=positive_N[order_N],
    )


def estimate_crossed_gain(pairs: CrossedScores, metric: MetricSpec, *, level: float) -> Gain:
    """Estimates the difference of the mean scores and the relative gain, with intervals over seeds and patients.

    Args:
        pairs: scores of at least two seeds.
        metric: direction, and the floor of |baseline| below which no relative gain is computed.
        level: nominal coverage of the intervals, in (0, 1); that of the equivalence interval is `equivalence_level`.

    Returns:
        The gain. The relative gain is absent below the floor, and has no interval where the baseline may be below it.
        Intervals are absent below 8 patients. For the equivalence interval, see `equivalence`.
    """
    counts = {"cases": len(pairs.groups), "groups": len(set(pairs.groups)), "cases_left_out": pairs.left_out}
    if not pairs.groups:
        undefined = absent(f"{metric.title} is defined on no test case with every seed of both networks")
        return Gain(relative_percent=undefined, absolute=undefined, **counts)
    score, baseline = (_get_mean_score(metric, pairs, value_SN) for value_SN in (pairs.score_SN, pairs.baseline_SN))
    if np.isnan(score):
        one_class = absent(f"the test cases are of one class: {metric.title} needs both")
        return Gain(relative_percent=one_class, absolute=one_class, **counts)
    sign = 1.0 if metric.higher_is_better else -1.0
    difference, relative = sign * (score - baseline), absent_below_floor(metric, abs(baseline))
    fewest = _count_fewest_patients(metric, pairs)
    if reason := explain_few_patients(counts["groups"], fewest):
        percent = None if relative is not None else 100.0 * difference / abs(baseline)
        return Gain(
            relative_percent=relative or Estimate(value=percent, absent_reason=reason),
            absolute=Estimate(value=difference, absent_reason=reason),
            score=score,
            baseline=baseline,
            **counts,
        )
    values = _CrossedValues.create(metric, pairs, fewest - 1)
    spread, narrow_level = values.analyse(1.0, -1.0), equivalence_level(level)
    return Gain(
        relative_percent=relative or _estimate_relative(metric, values, score, baseline, level),
        absolute=Estimate(value=difference, interval=spread.get_interval(difference, level)),
        score=score,
        baseline=baseline,
        equivalence_interval=allow_for_unseen_differences(
            spread.get_interval(difference, narrow_level),
            metric,
            (pairs.score_SN, pairs.baseline_SN),
            pairs.positive_N,
            pairs.index_N,
            difference=difference,
            degrees=fewest - 1,
        )
        if narrow_level > 0.0
        else None,
        variance=values.describe(spread),
        **counts,
    )


@dataclass(frozen=True)
class _CrossedValues:
    """Pseudo-values [S, G] of both networks, and the patients' degrees of freedom."""

    score_SG: Array
    baseline_SG: Array
    degrees: int

    @classmethod
    def create(cls, metric: MetricSpec, pairs: CrossedScores, degrees: int) -> _CrossedValues:
        score_SG, baseline_SG = (
            get_pseudo_values(metric, value_SN, pairs.positive_N, pairs.index_N)
            for value_SN in (pairs.score_SN, pairs.baseline_SN)
        )
        return cls(score_SG, baseline_SG, degrees)

    def analyse(self, score_factor: float, baseline_factor: float) -> CrossedVariance:
        """Analyses a linear combination of the two scores."""
        networks = [score_factor * self.score_SG, baseline_factor * self.baseline_SG]
        return analyse_crossed(networks, self.degrees)

    def describe(self, difference: CrossedVariance) -> GainVariance:
        """Returns the components of both networks and of their difference as a message of the API."""
        return GainVariance(
            network=analyse_crossed([self.score_SG], self.degrees).components,
            baseline=analyse_crossed([self.baseline_SG], self.degrees).components,
            difference=difference.components,
            standard_error=difference.standard_error,
            degrees_of_freedom=difference.degrees,
            seeds=len(self.score_SG),
        )


def _estimate_relative(
    metric: MetricSpec, values: _CrossedValues, score: float, baseline: float, level: float
) -> Estimate:
    sign = 1.0 if metric.higher_is_better else -1.0
    relative = 100.0 * sign * (score - baseline) / abs(baseline)
    lower = analyse_crossed([values.baseline_SG], values.degrees).get_interval(abs(baseline), level).lower
    if lower <= metric.floor:
        return Estimate(value=relative, absent_reason=explain_floor(metric, lower, level))
    # The derivatives of the ratio by the two scores.
    spread = values.analyse(100.0 / abs(baseline), -100.0 * score / (baseline * abs(baseline)))
    return Estimate(value=relative, interval=spread.get_interval(relative, level))


def _get_mean_score(metric: MetricSpec, pairs: CrossedScores, value_SN: Array) -> float:
    all_cases_1N = np.ones((1, len(pairs.groups)))
    scores = [aggregate_resamples(metric, value_N, pairs.positive_N, all_cases_1N)[0] for value_N in value_SN]
    return float(np.mean(scores))


def _count_fewest_patients(metric: MetricSpec, pairs: CrossedScores) -> int:
    """Returns the number of patients, of the smaller class for metrics of two classes."""
    n_groups = len(set(pairs.groups))
    if metric.of_set == "mean":
        return n_groups
    positive_G = np.bincount(pairs.index_N, weights=pairs.positive_N, minlength=n_groups) > 0
    return int(min(positive_G.sum(), (~positive_G).sum()))
