"""From scores of cases to the one number of a set: a mean, an area under the ROC curve, a balanced accuracy.

The one place where they are defined, for training, which selects by them, and for a check, which compares them and
resamples cases. Knows numbers and metrics' records alone. Axes: N cases, R resamples, P and Q positive and negative
cases.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from vfmalign.core.domain.artifacts import CaseScore, MetricSpec

THRESHOLD = 0.5
"""Predicted probability from which a case counts as called positive."""

Array = npt.NDArray[np.float64]


def levels(metric: MetricSpec, value_N: Array, positive_N: npt.NDArray[np.bool_], weight_RN: Array) -> Array:
    """The set's number, once for each row of weights.

    Args:
        metric: how it is formed.
        value_N: of each case.
        positive_N: truth of each case; unused by a mean.
        weight_RN: how often each case counts, such as in a bootstrap's resample.

    Returns:
        R numbers; NaN where there is no case, or, of the metrics of two classes, none of one class.
    """
    with np.errstate(invalid="ignore"):
        if metric.of_set == "mean":
            mean_R: Array = weight_RN @ value_N / weight_RN.sum(1)
            return mean_R
        weight_RP, weight_RQ = weight_RN[:, positive_N], weight_RN[:, ~positive_N]
        value_P, value_Q = value_N[positive_N], value_N[~positive_N]
        if metric.of_set == "auroc":
            # Share of the pairs of a positive and a negative case that are in order, ties for half (Mann-Whitney).
            ordered_PQ = np.heaviside(value_P[:, None] - value_Q[None, :], 0.5)
            auroc_R: Array = ((weight_RP @ ordered_PQ) * weight_RQ).sum(1) / (weight_RP.sum(1) * weight_RQ.sum(1))
            return auroc_R
        found_R = weight_RP @ (value_P >= THRESHOLD) / weight_RP.sum(1)
        spared_R = weight_RQ @ (value_Q < THRESHOLD) / weight_RQ.sum(1)
        balanced_R: Array = (found_R + spared_R) / 2
        return balanced_R


def level(metric: MetricSpec, values: Sequence[float | None], positives: Sequence[bool | None]) -> float | None:
    """The set's number over the cases that have a value; None where there is none."""
    kept = [(value, bool(truth)) for value, truth in zip(values, positives, strict=True) if value is not None]
    value_N = np.array([value for value, _ in kept], dtype=np.float64)
    positive_N = np.array([truth for _, truth in kept], dtype=np.bool_)
    found = float(levels(metric, value_N, positive_N, np.ones((1, len(kept))))[0])
    return None if np.isnan(found) else found


def level_of(metric: MetricSpec, scores: Sequence[CaseScore]) -> float | None:
    """The set's number of stored scores."""
    return level(metric, [score.values.get(metric.name) for score in scores], [score.positive for score in scores])
