"""Limits of what a gain can tell: fewest patients, and why an interval or a relative gain is absent."""

from __future__ import annotations

from vfmalign.client.messages.common import Estimate, absent
from vfmalign.core.domain.documents import pluralise
from vfmalign.core.domain.jobs import MetricSpec

MIN_GROUPS = 8
"""Patients below which no interval, p-value or verdict is given."""
MIN_FOR_CLAIM = 17
"""Patients below which a verdict claims nothing: 0.8¹⁷ = 2.3 %, so that a subgroup of one in five is rarely missing."""
MIN_WITHOUT_CAUTION = 35
"""Patients below which a subgroup of one in ten is missing more often than in 2.5 % of the test sets: 0.9³⁵ = 2.5 %."""
NO_VARIATION = (
    "the difference is the same for all test patients, which does not tell how it varies over others: there is no "
    "interval"
)
MIN_PER_CLASS = 10
"""Patients of either class below which a two-class metric has no interval: with 4 to 9, it covers too rarely."""


def equivalence_level(level: float) -> float:
    """Returns the level of the equivalence interval, 2 · level − 1: two one-sided tests at (1 − level) each.

    Both tests reject where the interval of the level 1 − 2 · (1 − level) lies within the bounds (Schuirmann,
    J. Pharmacokinet. Biopharm. 15 (1987)). There is no such interval at a level of 0.5 or less.
    """
    return round(2.0 * level - 1.0, 12)


def absent_below_floor(metric: MetricSpec, baseline: float) -> Estimate | None:
    """Returns an absent relative gain where |baseline| is under the metric's floor, else None."""
    if baseline >= metric.floor and baseline > 0.0:
        return None
    return absent(
        f"the baseline's {metric.title} of {baseline:.4g} is under the floor of {metric.floor:.4g}: "
        "a ratio to it is meaningless; use the absolute difference"
    )


def explain_floor(metric: MetricSpec, lower: float, level: float) -> str:
    """Returns why a relative gain has no interval whose baseline's interval begins under the floor."""
    return (
        f"the {100 * level:g} % interval of the baseline's {metric.title} begins at {lower:.4g}, under "
        f"the floor of {metric.floor:.4g}: the relative gain has no bounds; use the difference"
    )


def without_empty_interval(estimate: Estimate, *, scale: float) -> Estimate:
    """Removes an interval without width: it would promise that no other patient differs from those of the test set.

    Args:
        estimate: a value with or without an interval.
        scale: magnitude of the numbers that the value was computed from, whose rounding errors are no width.
    """
    interval = estimate.interval
    if interval is None or interval.upper - interval.lower > 1e-9 * scale:
        return estimate
    return Estimate(value=estimate.value, absent_reason=NO_VARIATION)


def explain_few_patients(n_groups: int, fewest: int) -> str:
    """Returns why there is no interval; empty where there is one.

    Args:
        n_groups: number of patients.
        fewest: number of patients of the smaller class; equal to `n_groups` for metrics of one class.
    """
    if n_groups < MIN_GROUPS:
        return f"{pluralise(n_groups, 'patient')}: an interval needs at least {MIN_GROUPS}"
    if fewest < min(n_groups, MIN_PER_CLASS):
        return f"{pluralise(fewest, 'patient')} of one class: an interval needs at least {MIN_PER_CLASS} of each"
    return ""
