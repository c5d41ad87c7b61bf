"""Aggregates the scores of cases into a mean, an area under the ROC curve or a balanced accuracy.

Training selects checkpoints by these aggregates. Checks compare and resample them.

Legend: N cases, R resamples, P positive cases, Q negative cases.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from vfmalign.core.domain.jobs import CaseScore, MetricSpec

THRESHOLD = 0.5
"""Predicted probability from which a case counts as predicted positive."""

Array = npt.NDArray[np.float64]


def aggregate_resamples(
    metric: MetricSpec, value_N: Array, positive_N: npt.NDArray[np.bool_], weight_RN: Array
) -> Array:
    """Aggregates the values of the cases once for each row of weights.

    Args:
        metric: metric that defines the aggregate.
        value_N: value of each case.
        positive_N: true class of each case. The mean does not use the class.
        weight_RN: number of times each case counts, such as in a bootstrap resample.

    Returns:
        R numbers. An aggregate is NaN if there are no cases, or if the metric needs two classes but one class is
        missing.
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
        sensitivity_R = weight_RP @ (value_P >= THRESHOLD) / weight_RP.sum(1)
        specificity_R = weight_RQ @ (value_Q < THRESHOLD) / weight_RQ.sum(1)
        balanced_R: Array = (sensitivity_R + specificity_R) / 2
        return balanced_R


def aggregate(metric: MetricSpec, values: Sequence[float | None], positives: Sequence[bool | None]) -> float | None:
    """Aggregates the values of all cases that have a value. Returns None if the aggregate is undefined."""
    scored = [(value, bool(truth)) for value, truth in zip(values, positives, strict=True) if value is not None]
    value_N = np.array([value for value, _ in scored], dtype=np.float64)
    positive_N = np.array([truth for _, truth in scored], dtype=np.bool_)
    result = float(aggregate_resamples(metric, value_N, positive_N, np.ones((1, len(scored))))[0])
    return None if np.isnan(result) else result


def aggregate_scores(metric: MetricSpec, scores: Sequence[CaseScore]) -> float | None:
    """Aggregates stored scores."""
    return aggregate(metric, [score.values.get(metric.name) for score in scores], [score.positive for score in scores])
