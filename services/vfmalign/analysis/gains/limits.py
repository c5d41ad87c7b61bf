"""Reasons why a gain has no interval, or why a relative gain is absent."""

from __future__ import annotations

from vfmalign.client.messages.common import Estimate, absent
from vfmalign.core.domain.jobs import MetricSpec

NO_VARIATION = (
    "the difference is the same for all test patients, which does not tell how it varies over others: there is no "
    "interval"
)


def equivalence_level(level: float) -> float:
    """Returns the level of the equivalence interval: 2 · level − 1, for two one-sided tests at 1 − level each.

    Both tests reject if the interval of the level 1 − 2 · (1 − level) lies within the bounds (Schuirmann, J.
    Pharmacokinet. Biopharm. 15 (1987)). If the level is 0.5 or less, there is no such interval.
    """
    return round(2.0 * level - 1.0, 12)


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


def without_empty_interval(estimate: Estimate, *, scale: float) -> Estimate:
    """Removes an interval of zero width, which would claim that no other patient differs from the test patients.

    Args:
        estimate: value, with an interval or without one.
        scale: magnitude of the numbers from which the value was computed. A width within the rounding errors of these
            numbers counts as zero.
    """
    interval = estimate.interval
    if interval is None or interval.upper - interval.lower > 1e-9 * scale:
        return estimate
    return Estimate(value=estimate.value, absent_reason=NO_VARIATION)
