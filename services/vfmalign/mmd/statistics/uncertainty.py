"""p-values, their adjustment over layers, and the jackknife interval. Knows only statistics, not how they were formed.

Legend: L layers, B permutations, G groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from vfmalign.mmd.engine.rows import FloatArray
from vfmalign.mmd.statistics.permutations import Permutations

JACKKNIFE = "delete-one-group jackknife"

# Rows of one group bias an estimate. By half a standard error, its interval covers 92 % instead of 95 %; by more, it
# misses (`python -m bench.statistics`: under 90 %, down to none in many channels), and is withheld.
LARGEST_BIAS = 0.5

# The biased estimate's own bias is no matter of size. Were intervals shown where it is small beside the standard error,
# they would be those whose standard error came out large: they cover 53 to 89 % (simulated, docs/adr/0038-*.md).
BIASED = (
    "`biased` counts kernel values of a row with itself, and an interval around it does not cover MMD²; "
    "an unbiased estimator has one"
)


@dataclass(frozen=True)
class Interval:
    """A confidence interval.

    Attributes:
        level: nominal coverage.
        degenerate: the test does not reject, or there is none: near the null the estimator is a degenerate
            U-statistic, is not normal, and the interval's coverage is not to be relied on.
    """

    lower: float
    upper: float
    level: float
    method: str
    degenerate: bool


@dataclass(frozen=True)
class Estimate:
    """A number that may be absent, with the reason (of the value, or else of the interval)."""

    value: float | None
    interval: Interval | None = None
    absent_reason: str = ""


def p_value(observed: float, permuted_B: FloatArray, tie_bound: float, permutations: Permutations) -> Estimate:
    """Share of permutations with a statistic at least as large; ties within the bound count as at least as large.

    (1 + #)/(1 + B) for random ones (Phipson and Smyth, SAGMB 2010); #/2^G where all are enumerated, which include the
    identity.
    """
    if permutations.absent_reason:
        return Estimate(None, absent_reason=permutations.absent_reason)
    return Estimate(_share(int((permuted_B >= observed - tie_bound).sum()), permutations))


def max_t_p_values(
    observed_L: FloatArray, permuted_LB: FloatArray, tie_bounds_L: FloatArray, permutations: Permutations
) -> list[Estimate]:
    """p-values of layers that share their permutations, adjusted by single-step max-T (Westfall and Young, 1993).

    Each layer's statistics are centred and scaled by the mean and SD over all its permutations and the observed one,
    which treats them alike and so keeps the test exact. A layer whose statistics differ by rounding alone says nothing:
    its p is 1 and it does not enter the maximum.
    """
    if permutations.absent_reason:
        return [Estimate(None, absent_reason=permutations.absent_reason)] * len(observed_L)
    everything = permuted_LB if permutations.enumerated else np.column_stack([observed_L, permuted_LB])
    mean_L, sd_L = everything.mean(axis=1), everything.std(axis=1)
    telling_L = sd_L > tie_bounds_L
    if not telling_L.any():
        return [Estimate(1.0)] * len(observed_L)
    scale_L = np.where(telling_L, sd_L, 1.0)
    upper_LB = (permuted_LB + tie_bounds_L[:, None] - mean_L[:, None]) / scale_L[:, None]
    largest_B = upper_LB[telling_L].max(axis=0)
    scaled_L = (observed_L - mean_L) / scale_L
    return [
        Estimate(_share(int((largest_B >= scaled).sum()), permutations) if telling else 1.0)
        for scaled, telling in zip(scaled_L, telling_L, strict=True)
    ]


def _share(at_least: int, permutations: Permutations) -> float:
    """P from the number of columns whose statistic reaches the observed one."""
    at_least *= permutations.multiplicity
    if permutations.enumerated:
        return at_least / permutations.count
    return (1 + at_least) / (1 + permutations.count)


def jackknife(observed: float, left_out: Sequence[FloatArray], level: float, p: float | None) -> Interval:
    """Delete-one-group jackknife interval around the estimate (Arvesen, Ann. Math. Stat. 1969, for U-statistics).

    The standard error times Student's t at the smallest G − 1 degrees of freedom.

    Args:
        observed: the estimate θ.
        left_out: θ without each group, one array per sample that is resampled on its own (one for pairs).
        level: nominal coverage.
        p: p-value of the test, None where there is none.
    """
    degrees = min(part_G.size for part_G in left_out) - 1
    half = float(stdtrit(degrees, 0.5 + level / 2.0)) * standard_error(left_out)
    rejects = p is not None and p <= 1.0 - level + 1e-12
    return Interval(observed - half, observed + half, level, JACKKNIFE, degenerate=not rejects)


def standard_error(left_out: Sequence[FloatArray]) -> float:
    """Delete-one-group jackknife: Var = Σ over samples of (G−1)/G · Σ_g (θ₍₋g₎ − mean)²."""
    variance = sum(
        (part_G.size - 1) / part_G.size * float(((part_G - part_G.mean()) ** 2).sum()) for part_G in left_out
    )
    return float(variance**0.5)


def bias_reason(observed: float, unbiased: float, left_out: Sequence[FloatArray], rounding: float) -> str:
    """Why there is no interval around an unbiased estimator's value of rows in groups; empty where there is one.

    Args:
        observed: the estimate.
        unbiased: the same mean over pairs of rows from different groups alone.
        left_out: the estimate without each group.
        rounding: differences up to this say nothing.
    """
    bias = observed - unbiased
    if abs(bias) <= LARGEST_BIAS * standard_error(left_out) + rounding:
        return ""
    return (
        f"the estimate holds kernel values of rows with their own group, which bias it by {bias:.2g}, "
        f"more than {LARGEST_BIAS} standard errors: an interval around it would not cover MMD²"
    )
