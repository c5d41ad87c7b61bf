"""Gain of a fine-tuned network over a baseline: difference of the scores and relative performance gain (RPG).

RPG = 100 · s · (score − baseline) / |baseline|, with s = −1 where lower is better (Huang et al., arXiv 2601.15888, with
an explicit sign). A score is a number of the whole set: the mean over its cases, or an area under the ROC curve, which
single cases do not have (`core.domain.scores`). Axes: N cases, G groups (patients), R resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy

from vfmalign.client.messages.checks import Gain
from vfmalign.client.messages.common import Estimate, Interval, absent
from vfmalign.core.domain.documents import pluralise
from vfmalign.core.domain.errors import CaseOrderMismatch, InvalidInput
from vfmalign.core.domain.jobs import CaseScore, MetricSpec
from vfmalign.core.domain.scores import aggregate_resamples
from vfmalign.finetuning.analysis.equivalence import allow_for_unseen_differences

RESAMPLES = 2_000
METHOD = "case-paired bootstrap over patients, expanded percentile"
STRATIFIED_METHOD = "case-paired bootstrap over patients of each class, expanded percentile"
MIN_GROUPS = 8
"""Patients below which no interval, p-value or verdict is given."""
MIN_PER_CLASS = 4
"""Patients of either class below which a two-class metric has no interval."""

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]


@dataclass(frozen=True)
class PairedScores:
    """One metric of a network and of a baseline on the same cases, restricted to cases where both are defined.

    Attributes:
        score_N: metric of the network per case.
        baseline_N: metric of the baseline per case.
        groups: patient of each case.
        left_out: number of cases where either value is undefined.
        positive_N: class of each case; all False where the task has no classes.
    """

    score_N: Array
    baseline_N: Array
    groups: tuple[str, ...]
    left_out: int
    positive_N: npt.NDArray[np.bool_]


def pair_scores(scores: Sequence[CaseScore], baseline: Sequence[CaseScore], metric: str) -> PairedScores:
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
        if metric not in case.values:
            raise InvalidInput(
                f"case {case.case} has no value of metric {metric!r}",
                field="test_scores",
                remedy="score both networks with the metrics of the task",
            )
    pairs = [
        (score.values[metric], other.values[metric], score.group, bool(score.positive))
        for score, other in zip(scores, baseline, strict=True)
        if score.values[metric] is not None and other.values[metric] is not None
    ]
    return PairedScores(
        score_N=np.array([pair[0] for pair in pairs], dtype=np.float64),
        baseline_N=np.array([pair[1] for pair in pairs], dtype=np.float64),
        groups=tuple(pair[2] for pair in pairs),
        left_out=len(scores) - len(pairs),
        positive_N=np.array([pair[3] for pair in pairs], dtype=np.bool_),
    )


def estimate_gain(
    pairs: PairedScores, metric: MetricSpec, *, seed: int, level: float = 0.95, resamples: int = RESAMPLES
) -> Gain:
    """Estimates the difference of the scores and the relative gain with bootstrap intervals.

    Whole patients are resampled, and a resampled patient contributes its scores under both networks. The score of the
    set is recomputed for every resample. For two-class metrics, patients with and without a positive case are
    resampled separately, so that every resample has both classes. Percentile intervals of few patients are too narrow
    and are widened as in Hesterberg ("expanded percentile", The American Statistician 69 (2015), §5.2) to the level
    1 − 2 Φ(−√(n/(n−1)) · t_{1−α/2, n−1}), where n is the number of patients, of the smaller class if there are two.

    Args:
        pairs: scores of N cases.
        metric: direction, and the floor of |baseline| below which no relative gain is computed.
        seed: seed of the resampling; equal seeds give equal intervals.
        level: nominal coverage of the intervals, in (0, 1); that of the equivalence interval is `equivalence_level`.
        resamples: number of resamples.

    Returns:
        The gain. The relative gain is absent below the floor, and has no interval where the baseline may be below it.
        Intervals are absent below 8 patients. For the equivalence interval, see `equivalence`.
    """
    if not pairs.score_N.size:
        return _absent_gain(pairs, f"{metric.title} is defined on no test case for both networks")
    pairs = _sort_cases(pairs)
    sign = 1.0 if metric.higher_is_better else -1.0

    def both_scores(weight_RN: Array) -> tuple[Array, Array]:
        score_R, baseline_R = (
            aggregate_resamples(metric, value_N, pairs.positive_N, weight_RN)
            for value_N in (pairs.score_N, pairs.baseline_N)
        )
        return score_R, baseline_R

    def difference(weight_RN: Array) -> Array:
        score_R, baseline_R = both_scores(weight_RN)
        return sign * (score_R - baseline_R)

    def relative(weight_RN: Array) -> Array:
        score_R, baseline_R = both_scores(weight_RN)
        # Resamples below the floor are rare where the interval is shown; they are divided by the floor.
        return 100.0 * sign * (score_R - baseline_R) / np.maximum(np.abs(baseline_R), metric.floor)

    score, baseline = (float(value_R[0]) for value_R in both_scores(np.ones((1, len(pairs.groups)))))
    if np.isnan(score):
        return _absent_gain(pairs, f"the test cases are of one class: {metric.title} needs both")
    strata, index_N = _resampling_strata(pairs, metric)
    bootstrap = _PatientBootstrap(strata, index_N, seed, resamples)
    absolute, narrow = bootstrap.estimate(difference, level)
    return Gain(
        relative_percent=absent_below_floor(metric, abs(baseline))
        or _without_interval_near_floor(metric, pairs, index_N, level, bootstrap.estimate(relative, level)[0]),
        absolute=absolute,
        score=score,
        baseline=baseline,
        cases=len(pairs.groups),
        groups=len(set(pairs.groups)),
        cases_left_out=pairs.left_out,
        equivalence_interval=narrow
        and allow_for_unseen_differences(
            narrow,
            metric,
            (pairs.score_N[None], pairs.baseline_N[None]),
            pairs.positive_N,
            index_N,
            difference=sign * (score - baseline),
            degrees=min(len(patients) for patients in strata) - 1,
        ),
    )


def equivalence_level(level: float) -> float:
    """Returns the level of the equivalence interval, 2 · level − 1: two one-sided tests at (1 − level) each.

    Both tests reject where the interval of the level 1 − 2 · (1 − level) lies within the bounds (Schuirmann,
    J. Pharmacokinet. Biopharm. 15 (1987)). There is no such interval at a level of 0.5 or less.
    """
    return round(2.0 * level - 1.0, 12)


def _absent_gain(pairs: PairedScores, reason: str) -> Gain:
    return Gain(
        relative_percent=absent(reason),
        absolute=absent(reason),
        cases=len(pairs.groups),
        groups=len(set(pairs.groups)),
        cases_left_out=pairs.left_out,
    )


def _sort_cases(pairs: PairedScores) -> PairedScores:
    """Sorts cases by patient and score, because floating-point sums depend on the order of rows."""
    order_N = np.lexsort((pairs.baseline_N, pairs.score_N, np.array(pairs.groups)))
    return PairedScores(
        score_N=pairs.score_N[order_N],
        baseline_N=pairs.baseline_N[order_N],
        groups=tuple(pairs.groups[place] for place in order_N),
        left_out=pairs.left_out,
        positive_N=pairs.positive_N[order_N],
    )


def _resampling_strata(pairs: PairedScores, metric: MetricSpec) -> tuple[list[Index], Index]:
    """Patients, sorted by id, in strata that are resampled separately; and the index of the patient of every case."""
    names, index_N = np.unique(np.array(pairs.groups), return_inverse=True)
    patient_G = np.arange(len(names))
    if metric.of_set == "mean":
        return [patient_G], index_N
    positive_G = np.bincount(index_N, weights=pairs.positive_N, minlength=len(names)) > 0
    return [patient_G[positive_G], patient_G[~positive_G]], index_N


def absent_below_floor(metric: MetricSpec, baseline: float) -> Estimate | None:
    """Returns an absent relative gain where |baseline| is under the metric's floor, else None."""
    if baseline >= metric.floor and baseline > 0.0:
        return None
    return absent(
        f"the baseline's {metric.title} of {baseline:.4g} is under the floor of {metric.floor:.4g}: "
        "a ratio to it is meaningless; use the absolute difference"
    )


def _without_interval_near_floor(
    metric: MetricSpec, pairs: PairedScores, index_N: Index, level: float, relative: Estimate
) -> Estimate:
    """Removes the interval of a relative gain unless the baseline's own interval lies above the floor.

    A ratio to a number that may be 0 has no bounds (Fieller, J. R. Stat. Soc. B 16 (1954), here with the floor in place
    of 0). The baseline's interval is Student's t with the delete-one-patient jackknife, so that whether the relative
    gain has an interval does not depend on the seed.
    """
    n_groups = int(index_N.max()) + 1
    if relative.interval is None:
        return relative
    without_one_GN = (index_N[None, :] != np.arange(n_groups)[:, None]).astype(np.float64)
    baseline_G = aggregate_resamples(metric, pairs.baseline_N, pairs.positive_N, without_one_GN)
    all_cases_1N = np.ones((1, len(index_N)))
    baseline = abs(float(aggregate_resamples(metric, pairs.baseline_N, pairs.positive_N, all_cases_1N)[0]))
    standard_error = float(np.sqrt((n_groups - 1) * baseline_G.var()))
    lower = baseline - float(scipy.stats.t.ppf((1 + level) / 2, n_groups - 1)) * standard_error
    if lower > metric.floor:
        return relative
    return Estimate(
        value=relative.value,
        absent_reason=explain_floor(metric, lower, level),
    )


def explain_floor(metric: MetricSpec, lower: float, level: float) -> str:
    """Returns why a relative gain has no interval whose baseline's interval begins under the floor."""
    return (
        f"the {100 * level:g} % interval of the baseline's {metric.title} begins at {lower:.4g}, under "
        f"the floor of {metric.floor:.4g}: the relative gain has no bounds; use the difference"
    )


def explain_few_patients(n_groups: int, fewest: int) -> str:
    """Returns why there is no interval; empty where there is one.

    Args:
        n_groups: number of patients.
        fewest: number of patients of the smaller class; equal to `n_groups` for metrics of one class.
    """
    if n_groups < MIN_GROUPS:
        return f"{pluralise(n_groups, 'patient')}: an interval needs at least {MIN_GROUPS}"
    if fewest < MIN_PER_CLASS:
        return f"{pluralise(fewest, 'patient')} of one class: an interval needs at least {MIN_PER_CLASS} of each"
    return ""


@dataclass(frozen=True)
class _PatientBootstrap:
    """Bootstrap over patients. Equal seeds give equal resamples for every statistic."""

    strata: Sequence[Index]
    index_N: Index
    seed: int
    resamples: int

    def estimate(self, statistic: Callable[[Array], Array], level: float) -> tuple[Estimate, Interval | None]:
        """Evaluates a statistic of case weights.

        Returns:
            The value, with its interval or the reason why there is none; and its equivalence interval.
        """
        value = float(statistic(np.ones((1, len(self.index_N))))[0])
        if reason := explain_few_patients(self._count_groups(), min(len(patients) for patients in self.strata)):
            return Estimate(value=value, absent_reason=reason), None
        narrow_level = equivalence_level(level)
        wide, *narrow = self._get_intervals(statistic, [level, narrow_level] if narrow_level > 0.0 else [level])
        return Estimate(value=value, interval=wide), narrow[0] if narrow else None

    def _get_intervals(self, statistic: Callable[[Array], Array], levels: Sequence[float]) -> list[Interval]:
        """Returns one interval for each level, all from the same resamples."""

        def statistic_of_patients(*drawn: Index, axis: int = -1) -> Array:
            drawn_RG = np.atleast_2d(np.concatenate(drawn, axis=-1))
            count_RG = np.zeros((len(drawn_RG), self._count_groups()))
            np.add.at(count_RG, (np.arange(len(drawn_RG))[:, None], drawn_RG), 1.0)
            value_R = statistic(count_RG[:, self.index_N])
            return value_R if drawn[0].ndim > 1 else value_R[0]

        fewest = min(len(patients) for patients in self.strata)
        method = METHOD if len(self.strata) == 1 else STRATIFIED_METHOD
        intervals: list[Interval] = []
        result = None
        for level in levels:
            result = scipy.stats.bootstrap(
                tuple(self.strata),
                statistic_of_patients,
                vectorized=True,
                method="percentile",
                confidence_level=_expanded_level(level, fewest),
                n_resamples=self.resamples if result is None else 0,
                bootstrap_result=result,
                batch=500,
                random_state=np.random.default_rng(self.seed),
            )
            lower, upper = map(float, result.confidence_interval)
            intervals.append(Interval(lower=lower, upper=upper, level=level, method=method))
        return intervals

    def _count_groups(self) -> int:
        return sum(len(patients) for patients in self.strata)


def _expanded_level(level: float, n: int) -> float:
    tail = scipy.stats.norm.cdf(-np.sqrt(n / (n - 1)) * scipy.stats.t.ppf((1 + level) / 2, n - 1))
    return float(1 - 2 * tail)
