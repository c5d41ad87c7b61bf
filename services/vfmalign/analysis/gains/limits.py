"""Reasons why a gain has no interval, or why a relative gain is absent."""

from __future__ import annotations

from vfmalign.client.messages.common import Estimate, absent
from vfmalign.core.domain.jobs import MetricSpec
from vfmalign.core.domain.patients import explain_few_patients

NO_VARIATION = (
    "the difference is the same for all test patients, which does not tell how it varies over others: there is no "
    "interval"
)
NO_VARIATION_OF_SCORE = (
    "the score is the same without any one test patient and with every seed, which does not tell how it varies over "
    "others"
)


def equivalence_level(level: float) -> float:
    """Returns the level of the equivalence interval: 2 · level − 1, for two one-sided tests at 1 − level each.

    Both tests reject if the interval of the level 1 − 2 · (1 − level) lies within the bounds (Schuirmann, J.
    Pharmacokinet. Biopharm. 15 (1987)). If the level is 0.5 or less, there is no such interval.
    """
    return round(2.0 * level - 1.0, 12)


def describe_undefined(metric: MetricSpec) -> str:
    """Explains why a metric is not defined for a set of test cases."""
    if metric.two_classes:
        return f"the test cases are all of one class, but {metric.title} needs both classes"
    return f"{metric.title} is not defined if all true or all predicted numbers are equal"


def explain_no_interval(metric: MetricSpec, n_groups: int, fewest: int) -> str:
    """Returns the reason why gains in a metric have no interval, or an empty text if they have one.

    Args:
        metric: the metric.
        n_groups: number of patients.
        fewest: see `explain_few_patients`.
    """
    if metric.of_set in {"r2", "pearson"}:
        return f"{metric.title} is shown beside the mean absolute error, whose difference has the interval"
    return explain_few_patients(n_groups, fewest)


def absent_below_floor(metric: MetricSpec, baseline: float) -> Estimate | None:
    """Returns an absent relative gain if |baseline| is below the metric's floor. Returns None in all other cases."""
    if baseline >= metric.floor and baseline > 0.0:
        return None
    return absent(
        f"the baseline's {metric.title} of {baseline:.4g} is under the floor of {metric.floor:.4g}, "
        "so a ratio to it has no meaning; use the absolute difference"
    )


def explain_floor(metric: MetricSpec, lower: float, level: float) -> str:
    """Explains why a relative gain has no interval: the baseline's interval begins below the metric's floor."""
    return (
        f"the {100 * level:g} % interval of the baseline's {metric.title} begins at {lower:.4g}, under "
        f"the floor of {metric.floor:.4g}: the relative gain has no bounds; use the difference"
    )


def without_empty_interval(estimate: Estimate, *, scale: float, reason: str = NO_VARIATION) -> Estimate:
    """Removes an interval of zero width, which would claim that no other patient differs from the test patients.

    Args:
        estimate: value, with an interval or without one.
        scale: magnitude of the numbers from which the value was computed. A width within the rounding errors of these
            numbers counts as zero.
        reason: explanation of the absent interval.
    """
    interval = estimate.interval
    if interval is None or interval.upper - interval.lower > 1e-9 * scale:
        return estimate
    return Estimate(value=estimate.value, absent_reason=reason)
