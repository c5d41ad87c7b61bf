"""Gain of a fine-tuned network over a baseline by the crossed analysis of seeds and patients.

Scores are means over the seeds. The intervals cover patients and, with several seeds, training (`crossed`). The
interval of the relative gain uses the delta method. Legend: the axes of arrays are S seeds, N cases and G groups
(patients).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vfmalign.analysis.gains.crossed import CrossedVariance, analyse_crossed, get_pseudo_values
from vfmalign.analysis.gains.equivalence import allow_for_unseen_differences
from vfmalign.analysis.gains.limits import (
    NO_VARIATION_OF_SCORE,
    absent_below_floor,
    describe_undefined,
    equivalence_level,
    explain_floor,
    explain_no_interval,
    without_empty_interval,
)
from vfmalign.analysis.gains.paired_scores import CrossedScores, pair_seeds
from vfmalign.client.messages.checks import Gain, GainVariance
from vfmalign.client.messages.common import Estimate, absent
from vfmalign.core.domain.jobs import CaseScore, MetricSpec
from vfmalign.core.domain.patients import MIN_SEEDS
from vfmalign.core.domain.scores import aggregate_resamples
from vfmalign.core.formats.documents import pluralise

Array = npt.NDArray[np.float64]


def estimate_crossed_gain(
    pairs: CrossedScores, metric: MetricSpec, *, level: float, another_draw: bool = False
) -> Gain:
    """Estimates the difference of the mean scores and the relative gain, with intervals over seeds and patients.

    Args:
        pairs: paired scores, one object per seed.
        metric: metric with its direction and its floor. If |baseline| is below the floor, no relative gain is computed.
        level: nominal coverage of the intervals, in (0, 1), except for the equivalence interval, whose coverage is
            `equivalence_level`.
        another_draw: whether intervals over several seeds are for a baseline with newly drawn random weights.

    Returns:
        The gain. The relative gain is absent if the baseline scores below the floor. The relative gain has no interval
        if the baseline's interval reaches below the floor. Intervals are absent if there are too few patients
        (`domain.patients`) or if patients do not differ. For the equivalence interval, see `equivalence`.
    """
    counts: dict[str, Any] = {
        "cases": len(pairs.groups),
        "groups": len(set(pairs.groups)),
        "cases_left_out": pairs.left_out,
    }
    if not pairs.groups:
        undefined = absent(f"{metric.title} is not defined for any test case with all seeds of both networks")
        return Gain(relative_percent=undefined, absolute=undefined, **counts)
    score, baseline = (_get_mean_score(metric, pairs, value_SN) for value_SN in (pairs.score_SN, pairs.baseline_SN))
    if np.isnan(score - baseline):
        undefined = absent(describe_undefined(metric))
        return Gain(relative_percent=undefined, absolute=undefined, **counts)
    difference = score - baseline if metric.higher_is_better else baseline - score
    relative = absent_below_floor(metric, abs(baseline))
    fewest = _count_fewest_patients(metric, pairs)
    counts["smaller_class"] = fewest if metric.two_classes else 0
    if reason := explain_no_interval(metric, counts["groups"], fewest):
        percent = None if relative is not None else 100.0 * difference / abs(baseline)
        intervals = {
            "relative_percent": relative or Estimate(value=percent, absent_reason=reason),
            "absolute": Estimate(value=difference, absent_reason=reason),
        }
    else:
        values = _CrossedValues.create(metric, pairs, fewest - 1, another_draw=another_draw)
        intervals = _estimate_intervals(pairs, metric, values, (score, baseline), level)
    return Gain(**counts | {"score": score, "baseline": baseline} | intervals)


def estimate_crossed_score(scores: Sequence[Sequence[CaseScore]], metric: MetricSpec, *, level: float) -> Estimate:
    """Estimates the mean score of one network, with an interval over seeds and patients.

    Args:
        scores: test scores, one object per seed.
        metric: the metric.
        level: nominal coverage of the interval, in (0, 1).

    Returns:
        The score, without an interval if there are fewer than `MIN_SEEDS` seeds or too few patients, or if neither
        differ.
    """
    pairs = pair_seeds(scores, scores, metric)
    if not pairs.groups or np.isnan(score := _get_mean_score(metric, pairs, pairs.score_SN)):
        return absent(f"{metric.title} is not defined for these test cases")
    fewest = _count_fewest_patients(metric, pairs)
    reason = explain_no_interval(metric, len(set(pairs.groups)), fewest)
    if len(scores) < MIN_SEEDS:
        reason = f"{pluralise(len(scores), 'seed')}: an interval over seeds needs at least {MIN_SEEDS}"
    if reason:
        return Estimate(value=score, absent_reason=reason)
    values = _CrossedValues.create(metric, pairs, fewest - 1, another_draw=False)
    spread = analyse_crossed([values.score_SG], values.degrees, correct_skewness=values.of_means)
    return without_empty_interval(
        Estimate(value=score, interval=spread.get_interval(score, level)),
        scale=max(abs(score), 1e-12),
        reason=NO_VARIATION_OF_SCORE,
    )


def _estimate_intervals(
    pairs: CrossedScores, metric: MetricSpec, values: _CrossedValues, scores: tuple[float, float], level: float
) -> dict[str, Any]:
    """Returns the fields of a gain that have an interval, and the underlying variance."""
    score, baseline = scores
    sign = 1.0 if metric.higher_is_better else -1.0
    spread, difference = values.analyse(sign, -sign), sign * (score - baseline)
    absolute = Estimate(value=difference, interval=spread.get_interval(difference, level))
    absolute = without_empty_interval(absolute, scale=max(abs(score), abs(baseline)))
    relative = absent_below_floor(metric, abs(baseline))
    if relative is None:
        relative = _estimate_relative(metric, values, score, baseline, level)
        if absolute.interval is None:  # without variation of the difference, only the baseline varies
            relative = Estimate(value=relative.value, absent_reason=absolute.absent_reason)
    narrow, narrow_level = None, equivalence_level(level)
    if narrow_level > 0.0:
        narrow = allow_for_unseen_differences(
            spread.get_interval(difference, narrow_level),
            metric,
            (pairs.score_SN, pairs.baseline_SN),
            pairs.truth_N,
            pairs.index_N,
            difference=difference,
            degrees=values.degrees,
            another_draw=values.another_draw,
        )
        if absolute.interval is None and not metric.two_classes:
            narrow = narrow.model_copy(update={"degenerate": True})
    return {
        "relative_percent": relative,
        "absolute": absolute,
        "equivalence_interval": narrow,
        "variance": values.describe(spread) if len(pairs.score_SN) > 1 else None,
    }


@dataclass(frozen=True)
class _CrossedValues:
    """Pseudo-values [S, G] of both networks, and how they are analysed.

    Attributes:
        degrees: degrees of freedom of the patients.
        of_means: whether the values are means of cases.
        another_draw: see `analyse_crossed`.
    """

    score_SG: Array
    baseline_SG: Array
    degrees: int
    of_means: bool
    another_draw: bool

    @classmethod
    def create(cls, metric: MetricSpec, pairs: CrossedScores, degrees: int, *, another_draw: bool) -> _CrossedValues:
        score_SG, baseline_SG = (
            get_pseudo_values(metric, value_SN, pairs.truth_N, pairs.index_N)
            for value_SN in (pairs.score_SN, pairs.baseline_SN)
        )
        return cls(score_SG, baseline_SG, degrees, metric.of_set == "mean", another_draw and len(pairs.baseline_SN) > 1)

    def analyse(self, score_factor: float, baseline_factor: float) -> CrossedVariance:
        """Analyses the sum of both networks' scores, each multiplied by its factor."""
        networks = [score_factor * self.score_SG, baseline_factor * self.baseline_SG]
        return analyse_crossed(networks, self.degrees, correct_skewness=self.of_means, another_draw=self.another_draw)

    def describe(self, difference: CrossedVariance) -> GainVariance:
        """Returns the variance components of both networks and of their difference as an API message."""
        return GainVariance(
            network=analyse_crossed([self.score_SG], self.degrees).components,
            baseline=analyse_crossed([self.baseline_SG], self.degrees).components,
            difference=difference.components,
            standard_error=difference.standard_error,
            degrees_of_freedom=difference.degrees,
            seeds=len(self.score_SG),
            baseline_seeds=len(self.baseline_SG),
            another_draw=difference.another_draw,
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
    spread = values.analyse(sign * 100.0 / abs(baseline), -sign * 100.0 * score / (baseline * abs(baseline)))
    return without_empty_interval(Estimate(value=relative, interval=spread.get_interval(relative, level)), scale=100.0)


def _get_mean_score(metric: MetricSpec, pairs: CrossedScores, value_SN: Array) -> float:
    all_cases_1N = np.ones((1, len(pairs.groups)))
    scores = [aggregate_resamples(metric, value_N, pairs.truth_N, all_cases_1N)[0] for value_N in value_SN]
    return float(np.mean(scores))


def _count_fewest_patients(metric: MetricSpec, pairs: CrossedScores) -> int:
    """Returns the number of patients, of the smaller class for metrics of two classes."""
    n_groups = len(set(pairs.groups))
    if not metric.two_classes:
        return n_groups
    positive_G = np.bincount(pairs.index_N, weights=pairs.truth_N, minlength=n_groups) > 0
    return int(min(positive_G.sum(), (~positive_G).sum()))
