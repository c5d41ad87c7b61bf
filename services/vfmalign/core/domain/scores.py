"""Aggregates the scores of cases into the score of a set, such as a mean or an area under the ROC curve.

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
Truth = npt.NDArray[np.float64 | np.bool_]
"""True value of each case. For a metric of two classes, a case is positive if its value is not 0."""


def get_truth(metric: MetricSpec, positive: bool | None, truth: float | None) -> float:
    """Returns the true value with which a metric compares the prediction of a case; 0 if it compares with none.

    Args:
        metric: the metric.
        positive: true class; None if the task has no classes.
        truth: true grade or number; None if the task predicts neither.
    """
    return float((positive if metric.two_classes else truth) or 0.0)


def aggregate_resamples(metric: MetricSpec, value_N: Array, truth_N: Truth, weight_RN: Array) -> Array:
    """Aggregates the values of the cases once for each row of weights.

    Args:
        metric: metric that defines the aggregate.
        value_N: value of each case.
        truth_N: true value of each case. The mean does not use it.
        weight_RN: number of times each case counts, such as in a bootstrap resample.

    Returns:
        R numbers. An aggregate is NaN if there are no cases, if the metric needs two classes but one class is missing,
        or if R² or the correlation is undefined because all values are equal. If all grades and predictions are equal,
        the quadratic kappa is 0, as for any constant prediction.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        if metric.of_set == "mean":
            mean_R: Array = weight_RN @ value_N / weight_RN.sum(1)
            return mean_R
        if metric.two_classes:
            return _compare_classes(metric, value_N, truth_N > 0, weight_RN)
        return _compare_numbers(metric, value_N, truth_N.astype(np.float64), weight_RN)


def _compare_classes(metric: MetricSpec, value_N: Array, positive_N: npt.NDArray[np.bool_], weight_RN: Array) -> Array:
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


def _compare_numbers(metric: MetricSpec, value_N: Array, truth_N: Array, weight_RN: Array) -> Array:
    count_R = weight_RN.sum(1)
    # Sums of large numbers would lose digits. Equal numbers become exactly 0.
    value_N, truth_N = value_N - (value_N if metric.of_set == "pearson" else truth_N)[:1], truth_N - truth_N[:1]
    mean_value_R, mean_truth_R = weight_RN @ value_N / count_R, weight_RN @ truth_N / count_R
    error_R = weight_RN @ np.square(value_N - truth_N) / count_R
    spread_truth_R = weight_RN @ np.square(truth_N) / count_R - np.square(mean_truth_R)
    if metric.of_set == "r2":
        r2_R: Array = 1.0 - error_R / np.where(spread_truth_R > 0.0, spread_truth_R, np.nan)
        return r2_R
    spread_value_R = weight_RN @ np.square(value_N) / count_R - np.square(mean_value_R)
    if metric.of_set == "quadratic_kappa":
        # Weights (i − j)² of grades i and j. True and predicted grades are independent in the expected disagreement.
        expected_R = spread_truth_R + spread_value_R + np.square(mean_value_R - mean_truth_R)
        kappa_R: Array = 1.0 - np.where(expected_R > 0.0, error_R / expected_R, count_R / count_R)
        return kappa_R
    product_R = weight_RN @ (value_N * truth_N) / count_R - mean_value_R * mean_truth_R
    pearson_R: Array = product_R / np.sqrt(spread_truth_R * spread_value_R)
    return pearson_R


def aggregate(metric: MetricSpec, values: Sequence[float | None], truths: Sequence[float | None]) -> float | None:
    """Aggregates the values of all cases that have a value. Returns None if the aggregate is undefined."""
    scored = [(value, truth or 0.0) for value, truth in zip(values, truths, strict=True) if value is not None]
    value_N = np.array([value for value, _ in scored], dtype=np.float64)
    truth_N = np.array([truth for _, truth in scored], dtype=np.float64)
    result = float(aggregate_resamples(metric, value_N, truth_N, np.ones((1, len(scored))))[0])
    return None if np.isnan(result) else result


def aggregate_scores(metric: MetricSpec, scores: Sequence[CaseScore]) -> float | None:
    """Aggregates stored scores."""
    values = [score.values.get(metric.name) for score in scores]
    return aggregate(metric, values, [get_truth(metric, score.positive, score.truth) for score in scores])
