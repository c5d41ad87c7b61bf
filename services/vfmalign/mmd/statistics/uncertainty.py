"""p-values, adjusted p-values over layers, and the jackknife interval.

Legend: L layers, B permutations, G groups.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import stdtrit

from vfmalign.client.messages.common import Estimate, Interval, absent
from vfmalign.mmd.engine.rows import FloatArray
from vfmalign.mmd.statistics.permutations import Permutations

JACKKNIFE = "delete-one-group jackknife"
MIN_HALF_WIDTH = 1e-9
"""Half-width up to which an interval only covers rounding errors; MMD² is between 0 and 2."""

# Pairs of rows within a group bias an estimate. At a bias of half a standard error, an interval covers 92 % instead of
# 95 %. At a larger bias it covers less (`python -m bench.statistics`: below 90 %, 0 % in many channels) and is hidden.
LARGEST_BIAS = 0.5

# The biased estimate never gets an interval. Showing intervals only if the bias is small relative to the standard error
# would select datasets with a standard error that is large by chance: their intervals cover 53 to 89 % (simulated,
# docs/adr/0028-*.md).
BIASED = (
    "`biased` includes kernel values of rows with themselves, so that an interval around it would not cover MMD²; "
    "use an unbiased estimator"
)


def p_value(observed: float, permuted_B: FloatArray, tie_bound: float, permutations: Permutations) -> Estimate:
    """Returns the share of permutations with a statistic ≥ `observed`; differences within `tie_bound` are ties.

    If # is the number of such permutations, the share is (1 + #)/(1 + B) for random permutations (Phipson and Smyth,
    SAGMB 2010). If all permutations are enumerated, it is #/2^G, because they include the identity.
    """
    if permutations.absent_reason:
        return absent(permutations.absent_reason)
    return Estimate(value=_share(int((permuted_B >= observed - tie_bound).sum()), permutations))


def max_t_p_values(
    observed_L: FloatArray, permuted_LB: FloatArray, tie_bounds_L: FloatArray, permutations: Permutations
) -> list[Estimate]:
    """Returns p-values of layers that share permutations, adjusted by single-step max-T (Westfall and Young, 1993).

    The statistics of each layer are centred and scaled by their mean and SD over all permutations and the observed one.
    This treats all statistics alike, so the test stays exact. If the statistics of a layer differ only by rounding, the
    layer has p = 1 and does not enter the maximum.
    """
    if permutations.absent_reason:
        return [absent(permutations.absent_reason)] * len(observed_L)
    statistics = permuted_LB if permutations.enumerated else np.column_stack([observed_L, permuted_LB])
    mean_L, sd_L = statistics.mean(axis=1), statistics.std(axis=1)
    informative_L = sd_L > tie_bounds_L
    if not informative_L.any():
        return [Estimate(value=1.0)] * len(observed_L)
    scale_L = np.where(informative_L, sd_L, 1.0)
    upper_LB = (permuted_LB + tie_bounds_L[:, None] - mean_L[:, None]) / scale_L[:, None]
    largest_B = upper_LB[informative_L].max(axis=0)
    scaled_L = (observed_L - mean_L) / scale_L
    return [
        Estimate(value=_share(int((largest_B >= scaled).sum()), permutations) if informative else 1.0)
        for scaled, informative in zip(scaled_L, informative_L, strict=True)
    ]


def _share(at_least: int, permutations: Permutations) -> float:
    """Returns the p-value; `at_least` columns have a statistic at least as large as the observed one."""
    at_least *= permutations.multiplicity
    if permutations.enumerated:
        return at_least / permutations.count
    return (1 + at_least) / (1 + permutations.count)


def jackknife(observed: float, left_out: Sequence[FloatArray], level: float, p: float | None) -> Interval:
    """Returns the delete-one-group jackknife interval (Arvesen, Ann. Math. Stat. 1969, for U-statistics).

    Its half-width is the standard error times the quantile of Student's t. The degrees of freedom are G − 1, with G of
    the sample with the fewest groups.

    Args:
        observed: the estimate θ.
        left_out: θ without each group, one array per sample that is resampled independently (one for pairs).
        level: nominal coverage.
        p: p-value of the test; None without a test.

    Returns:
        The interval, which is marked as degenerate if the test does not reject: near the null hypothesis, the estimator
        is a degenerate U-statistic and not normal, so the coverage is unreliable. Without a test, the interval is not
        marked for this reason. An interval is also marked if it is no wider than rounding errors: identical groups do
        not show how other groups vary.
    """
    degrees = min(theta_G.size for theta_G in left_out) - 1
    half = float(stdtrit(degrees, 0.5 + level / 2.0)) * standard_error(left_out)
    degenerate = (p is not None and p > 1.0 - level + 1e-12) or half < MIN_HALF_WIDTH
    return Interval(lower=observed - half, upper=observed + half, level=level, method=JACKKNIFE, degenerate=degenerate)


def standard_error(left_out: Sequence[FloatArray]) -> float:
    """Returns the standard error of the delete-one-group jackknife, Var = Σ_samples (G−1)/G · Σ_g (θ₍₋g₎ − mean)²."""
    variance = sum(
        (theta_G.size - 1) / theta_G.size * float(((theta_G - theta_G.mean()) ** 2).sum()) for theta_G in left_out
    )
    return float(variance**0.5)


def bias_reason(observed: float, unbiased: float, left_out: Sequence[FloatArray], rounding: float) -> str:
    """Returns why an unbiased estimate from grouped rows has no interval; empty if it has an interval.

    Args:
        observed: the estimate.
        unbiased: the estimate from pairs of rows of different groups only.
        left_out: the estimate without each group.
        rounding: largest difference of the two estimates that rounding can cause.
    """
    bias = observed - unbiased
    if abs(bias) <= LARGEST_BIAS * standard_error(left_out) + rounding:
        return ""
    return (
        f"the estimate includes kernel values within groups, which bias it by {bias:.2g}, more than {LARGEST_BIAS} "
        "standard errors, so that an interval around it would not cover MMD²"
    )
