"""Intervals for claims that two networks are equivalent, even if hardly any test patient shows a difference.

Two networks with the same predictions for every test patient may still differ on other patients. Intervals from
resampling or mean squares do not account for such differences. If no test patient shows a difference, such an interval
shrinks to a point, which lies within any bounds.

If the metric has two classes, the worst change of a case is from right to wrong. Bonett and Price ("Adjusted Wald
confidence interval for a difference of binomial proportions based on paired data", J. Educ. Behav. Stat. 37 (2012))
therefore add one pair of outcomes for each direction. Here, each class gets two more patients: for one of them, only
the network is certain and right; for the other, only the baseline is. For other metrics, the score of a case has no
worst value. For these metrics, the interval is marked as degenerate if few patients have different scores.

If both networks make the same prediction for every test patient and the metric has two classes, the interval depends
only on the added patients. This interval is the narrowest possible one and determines the minimum number of patients
for equivalence.

Legend: the axes of arrays are S seeds, N cases and G groups (patients).
"""

from __future__ import annotations

from bisect import bisect_left

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

from vfmalign.analysis.gains.crossed import analyse_crossed, get_pseudo_values
from vfmalign.client.messages.common import Interval
from vfmalign.core.domain.jobs import MetricSpec
from vfmalign.core.domain.scores import Truth

TWO_CLASS_METHOD = "jackknife over patients with two more of each class, Student's t"
MIN_DIFFERENT = 8
"""Minimum number of patients with different scores to show that means are equivalent."""
MAX_PATIENTS = 10_000_000

Array = npt.NDArray[np.float64]

# Added patients: their class, and the probabilities of being positive that the networks predict.
_ADDED_POSITIVE = np.array([True, True, False, False])
_ADDED_SCORE = np.array([1.0, 0.0, 1.0, 0.0])
_ADDED_BASELINE = 1.0 - _ADDED_SCORE


def allow_for_unseen_differences(
    interval: Interval,
    metric: MetricSpec,
    networks: tuple[Array, Array],
    truth_N: Truth,
    index_N: npt.NDArray[np.intp],
    *,
    difference: float,
    degrees: int,
    another_draw: bool = False,
) -> Interval:
    """Returns the interval for a claim of equivalence.

    Args:
        interval: interval of the difference. For a metric of two classes, only the interval's level is used.
        metric: specifies the aggregate of the cases.
        networks: scores [S, N] of the network and of the baseline, with at least one seed.
        truth_N: true class of each case. Only a metric of two classes uses it.
        index_N: patient of each case, 0 to G − 1.
        difference: variance of the difference of the two networks.
        degrees: degrees of freedom of the patients.
        another_draw: see `analyse_crossed`.
    """
    score_SN, baseline_SN = networks
    if not metric.two_classes:
        paired = min(map(len, networks))
        different = np.unique(index_N[(score_SN[:paired] != baseline_SN[:paired]).any(axis=0)])
        return interval.model_copy(update={"degenerate": len(different) < MIN_DIFFERENT})
    score_SN, baseline_SN = (
        np.hstack([value_SN, np.tile(added, (len(value_SN), 1))])
        for value_SN, added in ((score_SN, _ADDED_SCORE), (baseline_SN, _ADDED_BASELINE))
    )
    positive_N = np.concatenate([truth_N > 0, _ADDED_POSITIVE])
    index_N = np.concatenate([index_N, index_N.max() + 1 + np.arange(len(_ADDED_POSITIVE))])
    score_SG, baseline_SG = (
        get_pseudo_values(metric, value_SN, positive_N, index_N) for value_SN in (score_SN, baseline_SN)
    )
    adjusted = analyse_crossed([score_SG, -baseline_SG], degrees, another_draw=another_draw)
    interval = adjusted.get_interval(difference, interval.level)
    return interval.model_copy(update={"method": TWO_CLASS_METHOD})


def count_patients_for_equivalence(metric: MetricSpec, level: float) -> int:
    """Returns the minimum number of patients per class for a claim of equivalence. Returns 0 without two classes.

    Args:
        metric: metric of two classes, with a smallest relevant difference above 0.
        level: level of the equivalence interval.
    """
    if not metric.two_classes:
        return 0

    def fits(patients: int) -> bool:
        # Difference without one of the added patients; without any other patient, it is 0.
        change = 1.0 / (patients + 2) if metric.of_set == "auroc" else 0.5 / (patients + 1)
        error = 2.0 * change * np.sqrt((2 * patients + 3) / (2 * patients + 4))
        return bool(stdtrit(patients - 1, 0.5 + level / 2.0) * error < metric.smallest_difference)

    return 2 + bisect_left(range(2, MAX_PATIENTS), True, key=fits)
