"""What fine-tuning gained over a baseline: the relative performance gain (RPG) and the absolute difference.

RPG = 100 · s · (score − baseline) / |baseline|, s = −1 where lower is better (Huang et al., arXiv 2601.15888, with the
sign made explicit). Knows nothing of S3 or databases. Axes: N cases, G groups (patients).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from vfmalign.core.artifacts import CaseScore, MetricSpec, Record
from vfmalign.core.errors import CaseOrderMismatch, InvalidInput
from vfmalign.finetuning.estimates import MIN_GROUPS, Estimate, Interval, absent

RESAMPLES = 2_000
METHOD = "case-paired bootstrap over patients, expanded percentile"

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PairedScores:
    """One metric of a model and of a baseline on the same cases; only cases where both are defined.

    Attributes:
        score_N, baseline_N: the metric per case.
        groups: patient of each case.
        left_out: cases where either value is undefined.
    """

    score_N: Array  # noqa: N815
    baseline_N: Array  # noqa: N815
    groups: tuple[str, ...]
    left_out: int


class Gain(Record):
    """Gain over one baseline.

    Attributes:
        relative: RPG in percent.
        difference: s · (score − baseline) in the metric's unit, so that above 0 is better whatever the direction.
        score, baseline: means over the paired cases, in the metric's unit; None without any.
        cases, groups: paired cases and their patients.
        cases_left_out: cases where the metric is undefined for either network.
    """

    relative: Estimate
    difference: Estimate
    score: float | None
    baseline: float | None
    cases: int
    groups: int
    cases_left_out: int


def pair_scores(scores: Sequence[CaseScore], baseline: Sequence[CaseScore], metric: str) -> PairedScores:
    """Lines up two networks' test scores case by case.

    Raises:
        CaseOrderMismatch: the two were not scored on the same cases in the same order.
        InvalidInput: a case lacks the metric altogether.
    """
    if [(c.case, c.group) for c in scores] != [(c.case, c.group) for c in baseline]:
        raise CaseOrderMismatch(
            "the network and its baseline were not scored on the same test cases in the same order",
            subject="test_scores",
            remedy="run both jobs on one dataset digest",
        )
    for case in (*scores, *baseline):
        if metric not in case.values:
            raise InvalidInput(f"no metric {metric!r} for case {case.case}", field="test_scores")
    kept = [
        (mine.values[metric], theirs.values[metric], mine.group)
        for mine, theirs in zip(scores, baseline, strict=True)
        if mine.values[metric] is not None and theirs.values[metric] is not None
    ]
    return PairedScores(
        score_N=np.array([row[0] for row in kept], dtype=np.float64),
        baseline_N=np.array([row[1] for row in kept], dtype=np.float64),
        groups=tuple(row[2] for row in kept),
        left_out=len(scores) - len(kept),
    )


def estimate_gain(
    pairs: PairedScores, metric: MetricSpec, *, seed: int, level: float = 0.95, resamples: int = RESAMPLES
) -> Gain:
    """Estimates RPG and absolute difference with their bootstrap intervals.

    The statistic is the mean over cases; whole patients are resampled, and a resampled patient brings its scores under
    both networks. Percentile intervals of few patients are too narrow; they are widened as Hesterberg does
    ("expanded percentile", The American Statistician 69 (2015), §5.2): level 1 − 2 Φ(−√(n/(n−1)) · t_{1−α/2, n−1}).

    Args:
        pairs: scores of N cases.
        metric: direction and the floor of |baseline| under which no relative gain is formed.
        seed: of the resampling; equal seeds give equal intervals.
        level: nominal coverage, in (0, 1).
        resamples: of the patients.

    Returns:
        The gain. The relative one is absent under the floor, intervals are absent below 8 patients, with the reason.
    """
    n_groups = len(set(pairs.groups))
    if not pairs.score_N.size:
        reason = f"{metric.name} is defined on no test case for both networks"
        return Gain(
            relative=absent(reason), difference=absent(reason), score=None, baseline=None,
            cases=0, groups=0, cases_left_out=pairs.left_out,
        )  # fmt: skip
    sums_3G = _sums_by_group(pairs)
    score, baseline = (float(np.mean(values_N)) for values_N in (pairs.score_N, pairs.baseline_N))
    sign = 1.0 if metric.higher_is_better else -1.0

    def difference(score_G: Array, baseline_G: Array, cases_G: Array, axis: int = -1) -> Array:
        mean: Array = sign * (score_G.sum(axis) - baseline_G.sum(axis)) / cases_G.sum(axis)
        return mean

    def relative(score_G: Array, baseline_G: Array, cases_G: Array, axis: int = -1) -> Array:
        baseline_mean = np.abs(baseline_G.sum(axis) / cases_G.sum(axis))
        # A resample under the floor has no gain: NaN, which makes the whole interval absent.
        safe = np.where(baseline_mean < metric.floor, np.nan, baseline_mean)
        return 100.0 * difference(score_G, baseline_G, cases_G, axis) / safe

    return Gain(
        relative=_floor_reason(metric, abs(baseline)) or _estimate(relative, sums_3G, seed, level, resamples),
        difference=_estimate(difference, sums_3G, seed, level, resamples),
        score=score,
        baseline=baseline,
        cases=len(pairs.groups),
        groups=n_groups,
        cases_left_out=pairs.left_out,
    )


def _sums_by_group(pairs: PairedScores) -> Array:
    """Sums of score, baseline and number of cases per patient, patients in order of id."""
    names, index_N = np.unique(np.array(pairs.groups), return_inverse=True)
    return np.stack(
        [
            np.bincount(index_N, weights=values_N, minlength=len(names))
            for values_N in (pairs.score_N, pairs.baseline_N, np.ones(len(pairs.groups)))
        ]
    )


def _floor_reason(metric: MetricSpec, baseline: float) -> Estimate | None:
    if baseline >= metric.floor and baseline > 0.0:
        return None
    return absent(
        f"the baseline's {metric.name} of {baseline:.4g} is under the floor of {metric.floor:.4g}: "
        "a ratio to it means nothing, see the absolute difference"
    )


def _estimate(statistic: Any, sums_3G: Array, seed: int, level: float, resamples: int) -> Estimate:
    value = float(statistic(*sums_3G))
    n_groups = sums_3G.shape[1]
    if n_groups < MIN_GROUPS:
        return Estimate(value=value, absent_reason=f"{n_groups} patients: an interval needs at least {MIN_GROUPS}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)  # NaN is answered below, with a reason
        result = stats.bootstrap(
            tuple(sums_3G),
            statistic,
            paired=True,
            vectorized=True,
            method="percentile",
            confidence_level=_expanded_level(level, n_groups),
            n_resamples=resamples,
            batch=500,
            random_state=np.random.default_rng(seed),
        )
    lower, upper = (float(end) for end in result.confidence_interval)
    if not (np.isfinite(lower) and np.isfinite(upper)):
        return Estimate(value=value, absent_reason="in some resamples the baseline falls under the metric's floor")
    return Estimate(value=value, interval=Interval(lower=lower, upper=upper, level=level, method=METHOD))


def _expanded_level(level: float, n: int) -> float:
    tail = stats.norm.cdf(-np.sqrt(n / (n - 1)) * stats.t.ppf((1 + level) / 2, n - 1))
    return float(1 - 2 * tail)
