"""A number that may be absent, with its uncertainty: the currency of a check's result.

Knows the shape of an estimate and how one is made from JSON. Knows nothing of how numbers are estimated.
"""

from __future__ import annotations

from vfmalign.core.domain.artifacts import Record

MIN_GROUPS = 8
"""Patients below which no interval, p-value or verdict is given (design §5)."""


class Interval(Record):
    """A confidence interval.

    Attributes:
        lower, upper: ends, in the unit of the estimate.
        level: nominal coverage, in (0, 1).
        method: how it was made.
        degenerate: True where the coverage is not to be relied on.
    """

    lower: float
    upper: float
    level: float
    method: str
    degenerate: bool = False


class Estimate(Record):
    """A value and its interval; `absent_reason` says in one sentence why either is missing."""

    value: float | None = None
    interval: Interval | None = None
    absent_reason: str = ""


def absent(reason: str) -> Estimate:
    """An estimate without value or interval."""
    return Estimate(absent_reason=reason)
