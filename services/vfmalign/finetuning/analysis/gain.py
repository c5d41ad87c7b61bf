"""What fine-tuning gained over a baseline: the relative performance gain (RPG) and the absolute difference.

RPG = 100 · s · (score − baseline) / |baseline|, s = −1 where lower is better (Huang et al., arXiv 2601.15888, with the
sign made explicit). A score is a number of the whole set: the mean of its cases, or an area under the ROC curve, which
no case has by itself (`core.scores`). Knows nothing of S3 or databases. Axes: N cases, G groups (patients), R
resamples.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy

from vfmalign.core.domain.artifacts import CaseScore, MetricSpec, Record
from vfmalign.core.domain.documents import pluralise
from vfmalign.core.domain.errors import CaseOrderMismatch, InvalidInput
from vfmalign.core.domain.scores import levels
from vfmalign.finetuning.analysis.estimates import MIN_GROUPS, Estimate, Interval, absent

RESAMPLES = 2_000
METHOD = "case-paired bootstrap over patients, expanded percentile"
STRATIFIED = "case-paired bootstrap over patients of each class, expanded percentile"
MIN_PER_CLASS = 4
"""Patients of either class below which a number of two classes has no interval."""

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]


@dataclass(frozen=True)
class PairedScores:
    """One metric of a model and of a baseline on the same cases; only cases where both are defined.

    Attributes:
        score_N, baseline_N: the metric per case.
        groups: patient of each case.
        positive_N: class of each case; all False where the task has none.
        left_out: cases where either value is undefined.
    """

    score_N: Array
    baseline_N: Array
    groups: tuple[str, ...]
    left_out: int
    positive_N: npt.NDArray[np.bool_]


class Gain(Record):
    """Gain over one baseline.

    Attributes:
        relative: RPG in percent.
        difference: s · (score − baseline) in the metric's unit, so that above 0 is better whatever the direction.
        score, baseline: of the paired cases, in the metric's unit; None without any.
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
        (mine.values[metric], theirs.values[metric], mine.group, bool(mine.positive))
        for mine, theirs in zip(scores, baseline, strict=True)
        if mine.values[metric] is not None and theirs.values[metric] is not None
    ]
    return PairedScores(
        score_N=np.array([row[0] for row in kept], dtype=np.float64),
        baseline_N=np.array([row[1] for row in kept], dtype=np.float64),
        groups=tuple(row[2] for row in kept),
        left_out=len(scores) - len(kept),
        positive_N=np.array([row[3] for row in kept], dtype=np.bool_),
    )


def estimate_gain(
    pairs: PairedScores, metric: MetricSpec, *, seed: int, level: float = 0.95, resamples: int = RESAMPLES
) -> Gain:
    """Estimates RPG and absolute difference with their bootstrap intervals.

    Whole patients are resampled, and a resampled patient brings its scores under both networks; the set's number is
    formed anew of every resample. Where it is a number of two classes, patients with and without a positive case are
    resampled apart, so that no resample lacks a class. Percentile intervals of few patients are too narrow; they are
    widened as Hesterberg does ("expanded percentile", The American Statistician 69 (2015), §5.2): level
    1 − 2 Φ(−√(n/(n−1)) · t_{1−α/2, n−1}), n being the patients, of the smaller class where there are two.

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
    pairs = _in_order(pairs)
    sign = 1.0 if metric.higher_is_better else -1.0
    strata, index_N = _strata(pairs, metric)

    def both(weight_RN: Array) -> tuple[Array, Array]:
        score_R, baseline_R = (
            levels(metric, value_N, pairs.positive_N, weight_RN) for value_N in (pairs.score_N, pairs.baseline_N)
        )
        return score_R, baseline_R

    def difference(weight_RN: Array) -> Array:
        score_R, baseline_R = both(weight_RN)
        return sign * (score_R - baseline_R)

    def relative(weight_RN: Array) -> Array:
        score_R, baseline_R = both(weight_RN)
        # A resample under the floor has no gain: NaN, which makes the whole interval absent.
        safe_R = np.where(np.abs(baseline_R) < metric.floor, np.nan, np.abs(baseline_R))
        return 100.0 * sign * (score_R - baseline_R) / safe_R

    score, baseline = (float(found_R[0]) for found_R in both(np.ones((1, len(pairs.groups)))))
    if np.isnan(score):
        reason = f"the test cases are of one class: {metric.name} needs both"
        nothing = absent(reason)
        return Gain(
            relative=nothing, difference=nothing, score=None, baseline=None,
            cases=len(pairs.groups), groups=n_groups, cases_left_out=pairs.left_out,
        )  # fmt: skip
    draw = _Bootstrap(strata, index_N, seed, level, resamples)
    return Gain(
        relative=_floor_reason(metric, abs(baseline)) or draw.estimate(relative),
        difference=draw.estimate(difference),
        score=score,
        baseline=baseline,
        cases=len(pairs.groups),
        groups=n_groups,
        cases_left_out=pairs.left_out,
    )


def _in_order(pairs: PairedScores) -> PairedScores:
    """Cases by patient and score: sums must not depend on the order of rows, not in the last bit either."""
    order_N = np.lexsort((pairs.baseline_N, pairs.score_N, np.array(pairs.groups)))
    return PairedScores(
        score_N=pairs.score_N[order_N],
        baseline_N=pairs.baseline_N[order_N],
        groups=tuple(pairs.groups[place] for place in order_N),
        left_out=pairs.left_out,
        positive_N=pairs.positive_N[order_N],
    )


def _strata(pairs: PairedScores, metric: MetricSpec) -> tuple[list[Index], Index]:
    """Patients, in order of id, that are resampled apart; and the patient of every case."""
    names, index_N = np.unique(np.array(pairs.groups), return_inverse=True)
    patient_G = np.arange(len(names))
    if metric.of_set == "mean":
        return [patient_G], index_N
    positive_G = np.bincount(index_N, weights=pairs.positive_N, minlength=len(names)) > 0
    return [patient_G[positive_G], patient_G[~positive_G]], index_N


def _floor_reason(metric: MetricSpec, baseline: float) -> Estimate | None:
    if baseline >= metric.floor and baseline > 0.0:
        return None
    return absent(
        f"the baseline's {metric.name} of {baseline:.4g} is under the floor of {metric.floor:.4g}: "
        "a ratio to it means nothing, see the absolute difference"
    )


@dataclass(frozen=True)
class _Bootstrap:
    """Resampling of patients. Equal seeds draw equal resamples, whatever the statistic."""

    strata: Sequence[Index]
    index_N: Index
    seed: int
    level: float
    resamples: int

    def estimate(self, statistic: Callable[[Array], Array]) -> Estimate:
        """The statistic of weights of cases, with its interval or the reason why it has none."""
        value = float(statistic(np.ones((1, len(self.index_N))))[0])
        n_groups = sum(len(patients) for patients in self.strata)
        if n_groups < MIN_GROUPS:
            return Estimate(
                value=value, absent_reason=f"{pluralise(n_groups, 'patient')}: an interval needs at least {MIN_GROUPS}"
            )
        fewest = min(len(patients) for patients in self.strata)
        if len(self.strata) > 1 and fewest < MIN_PER_CLASS:
            reason = f"{pluralise(fewest, 'patient')} of one class: an interval needs at least {MIN_PER_CLASS} of each"
            return Estimate(value=value, absent_reason=reason)

        def of_patients(*drawn: Index, axis: int = -1) -> Array:
            drawn_RG = np.atleast_2d(np.concatenate(drawn, axis=-1))
            count_RG = np.zeros((len(drawn_RG), n_groups))
            np.add.at(count_RG, (np.arange(len(drawn_RG))[:, None], drawn_RG), 1.0)
            found_R = statistic(count_RG[:, self.index_N])
            return found_R if drawn[0].ndim > 1 else found_R[0]

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", scipy.stats.DegenerateDataWarning)  # NaN is answered below, with a reason
            result = scipy.stats.bootstrap(
                tuple(self.strata),
                of_patients,
                vectorized=True,
                method="percentile",
                confidence_level=_expanded_level(self.level, fewest),
                n_resamples=self.resamples,
                batch=500,
                random_state=np.random.default_rng(self.seed),
            )
        lower, upper = (float(end) for end in result.confidence_interval)
        if not (np.isfinite(lower) and np.isfinite(upper)):
            return Estimate(value=value, absent_reason="in some resamples the baseline falls under the metric's floor")
        method = METHOD if len(self.strata) == 1 else STRATIFIED
        return Estimate(value=value, interval=Interval(lower=lower, upper=upper, level=self.level, method=method))


def _expanded_level(level: float, n: int) -> float:
    tail = scipy.stats.norm.cdf(-np.sqrt(n / (n - 1)) * scipy.stats.t.ppf((1 + level) / 2, n - 1))
    return float(1 - 2 * tail)
