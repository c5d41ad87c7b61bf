"""Gain of a fine-tuned network over a baseline: difference of the scores and relative performance gain (RPG).

RPG = 100 · s · (score − baseline) / |baseline|, with s = −1 if a lower score is better (Huang et al., arXiv 2601.15888,
with an explicit sign). A score describes the whole set of cases. The score is a mean over the cases, or an area under
the ROC curve, which is not defined for single cases (`core.domain.scores`). Axes: N cases, G groups (patients), R
resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy

from vfmalign.analysis.gains.crossed_gain import estimate_crossed_gain
from vfmalign.analysis.gains.limits import without_empty_interval
from vfmalign.analysis.gains.paired_scores import CrossedScores, PairedScores
from vfmalign.client.messages.checks import Gain
from vfmalign.client.messages.common import Estimate, Interval
from vfmalign.core.domain.jobs import MetricSpec
from vfmalign.core.domain.scores import aggregate_resamples

RESAMPLES = 2_000
METHOD = "case-paired bootstrap over patients, expanded percentile"
TWO_CLASS_METHOD = "case-paired bootstrap over patients of each class, expanded percentile"

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]


def estimate_gain(
    pairs: PairedScores, metric: MetricSpec, *, seed: int, level: float = 0.95, resamples: int = RESAMPLES
) -> Gain:
    """Estimates the difference of the scores and the relative gain of networks that were trained with one seed.

    If the metric is a mean, the intervals are those of the crossed analysis, corrected for skewness. For other
    metrics, whole patients are resampled. A resampled patient contributes its scores under both networks. The score of
    the set is recomputed for each resample. If the metric has two classes, patients with and without a positive case
    are resampled separately, so that every resample has both classes. Percentile intervals are too narrow if there are
    few patients. The intervals are therefore widened as in Hesterberg ("expanded percentile", The American Statistician
    69 (2015), §5.2) to the level 1 − 2 Φ(−√(n/(n−1)) · t_{1−α/2, n−1}), where n is the number of patients, of the
    smaller class for two classes.

    Args:
        pairs: scores of N cases.
        metric: metric with its direction and its floor. If |baseline| is below the floor, no relative gain is computed.
        seed: seed of the resampling; equal seeds give equal intervals.
        level: nominal coverage of the intervals, in (0, 1), except for the equivalence interval, whose coverage is
            `equivalence_level`.
        resamples: number of resamples.

    Returns:
        The gain. For absent values and intervals, see `estimate_crossed_gain`.
    """
    pairs = _sort_cases(pairs)
    one_seed = CrossedScores(pairs.score_N[None], pairs.baseline_N[None], pairs.groups, pairs.left_out, pairs.truth_N)
    gain = estimate_crossed_gain(one_seed, metric, level=level)
    if metric.of_set == "mean" or gain.absolute.interval is None:
        return gain
    sign = 1.0 if metric.higher_is_better else -1.0

    def difference(weight_RN: Array) -> Array:
        score_R, baseline_R = (
            aggregate_resamples(metric, value_N, pairs.truth_N, weight_RN)
            for value_N in (pairs.score_N, pairs.baseline_N)
        )
        return sign * (score_R - baseline_R)

    def relative(weight_RN: Array) -> Array:
        baseline_R = aggregate_resamples(metric, pairs.baseline_N, pairs.truth_N, weight_RN)
        # Resamples below the floor are rare if the interval is shown; divide them by the floor.
        return 100.0 * difference(weight_RN) / np.maximum(np.abs(baseline_R), metric.floor)

    bootstrap = _PatientBootstrap(_get_strata(pairs, metric), one_seed.index_N, seed, resamples)
    scale = max(abs(gain.score or 0.0), abs(gain.baseline or 0.0))
    return gain.model_copy(
        update={
            "absolute": bootstrap.replace_interval(gain.absolute, difference, scale),
            "relative_percent": bootstrap.replace_interval(gain.relative_percent, relative, 100.0),
        }
    )


def _sort_cases(pairs: PairedScores) -> PairedScores:
    """Sorts cases by patient and score, because floating-point sums depend on the order of rows."""
    order_N = np.lexsort((pairs.baseline_N, pairs.score_N, np.array(pairs.groups)))
    return PairedScores(
        score_N=pairs.score_N[order_N],
        baseline_N=pairs.baseline_N[order_N],
        groups=tuple(pairs.groups[place] for place in order_N),
        left_out=pairs.left_out,
        truth_N=pairs.truth_N[order_N],
    )


def _get_strata(pairs: PairedScores, metric: MetricSpec) -> list[Index]:
    """Returns the patients with and without a positive case, or all, numbered in the order of their ids."""
    names, index_N = np.unique(np.array(pairs.groups), return_inverse=True)
    if not metric.two_classes:
        return [np.arange(len(names))]
    positive_G = np.bincount(index_N, weights=pairs.truth_N, minlength=len(names)) > 0
    return [np.flatnonzero(positive_G), np.flatnonzero(~positive_G)]


@dataclass(frozen=True)
class _PatientBootstrap:
    """Bootstrap over the patients of each stratum. Equal seeds give equal resamples for every statistic."""

    strata: Sequence[Index]
    index_N: Index
    seed: int
    resamples: int

    def replace_interval(self, estimate: Estimate, statistic: Callable[[Array], Array], scale: float) -> Estimate:
        """Replaces an existing interval of an estimate by the interval of `statistic`, a function of case weights."""
        if estimate.interval is None:
            return estimate
        interval = self._get_interval(statistic, estimate.interval.level)
        return without_empty_interval(estimate.model_copy(update={"interval": interval}), scale=scale)

    def _get_interval(self, statistic: Callable[[Array], Array], level: float) -> Interval:
        n_groups = sum(len(patients) for patients in self.strata)

        def statistic_of_patients(*drawn: Index, axis: int = -1) -> Array:
            drawn_RG = np.atleast_2d(np.concatenate(drawn, axis=-1))
            count_RG = np.zeros((len(drawn_RG), n_groups))
            np.add.at(count_RG, (np.arange(len(drawn_RG))[:, None], drawn_RG), 1.0)
            value_R = statistic(count_RG[:, self.index_N])
            return value_R if drawn[0].ndim > 1 else value_R[0]

        result = scipy.stats.bootstrap(
            tuple(self.strata),
            statistic_of_patients,
            vectorized=True,
            method="percentile",
            confidence_level=_expanded_level(level, min(len(patients) for patients in self.strata)),
            n_resamples=self.resamples,
            batch=500,
            random_state=np.random.default_rng(self.seed),
        )
        lower, upper = map(float, result.confidence_interval)
        method = TWO_CLASS_METHOD if len(self.strata) > 1 else METHOD
        return Interval(lower=lower, upper=upper, level=level, method=method)


def _expanded_level(level: float, n: int) -> float:
    tail = scipy.stats.norm.cdf(-np.sqrt(n / (n - 1)) * scipy.stats.t.ppf((1 + level) / 2, n - 1))
    return float(1 - 2 * tail)
