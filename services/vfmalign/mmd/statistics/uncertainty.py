"""p-values, p-values adjusted over layers, and the jackknife interval.

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
"""Largest half-width of an interval that covers only rounding errors. MMD² is between 0 and 2."""

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
    """Returns the share of permutations whose statistic is ≥ `observed`. Differences within `tie_bound` are ties.

    Let # be the number of permutations with such a statistic. For random permutations, the share is (1 + #)/(1 + B)
    (Phipson and Smyth, SAGMB 2010). For enumerated permutations, which include the identity, the share is #/2^G.
    """
    if permutations.absent_reason:
        return absent(permutations.absent_reason)
    return Estimate(value=_share(int((permuted_B >= observed - tie_bound).sum()), permutations))


def max_t_p_values(
    observed_L: FloatArray, permuted_LB: FloatArray, tie_bounds_L: FloatArray, permutations: Permutations
) -> list[Estimate]:
    """Adjusts the p-values of layers that share permutations by single-step max-T (Westfall and Young, 1993).

    The statistics of each layer are standardised by the mean and SD of the observed and all permuted values. All values
    are treated alike, so the test stays exact. If the statistics of a layer differ only by rounding, the p-value of the
    layer is 1, and the maximum ignores the layer.
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
    """Returns the p-value if `at_least` columns have a statistic at least as large as the observed statistic."""
    at_least *= permutations.multiplicity
    if permutations.enumerated:
        return at_least / permutations.count
    return (1 + at_least) / (1 + permutations.count)


def jackknife(observed: float, left_out: Sequence[FloatArray], level: float, p: float | None) -> Interval:
    """Returns the delete-one-group jackknife interval (Arvesen, Ann. Math. Stat. 1969, for U-statistics).

    The half-width is the standard error times the quantile of Student's t with G − 1 degrees of freedom. G is the
    number of groups of the sample with fewer groups.

    Args:
        observed: the estimate θ.
        left_out: θ without each group in turn. Two arrays for independent samples, one array for paired samples.
        level: nominal coverage of the interval.
        p: p-value of the test; None if there is no test.

    Returns:
        The interval. It is marked as degenerate if a test does not reject. Near the null hypothesis, the estimator is a
        degenerate U-statistic and not normal, so the coverage is unreliable. The interval is also marked if it is no
        wider than rounding errors: identical groups do not show how other groups vary.
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
    """Returns why an unbiased estimate from grouped rows has no interval; empty if there is an interval.

    Args:
        observed: the estimate.
        unbiased: the estimate from only those pairs of rows whose groups differ.
        left_out: the estimate without each group in turn.
        rounding: largest difference that rounding can cause between the two estimates.
    """
    bias = observed - unbiased
    if abs(bias) <= LARGEST_BIAS * standard_error(left_out) + rounding:
        return ""
    return (
        f"the estimate includes kernel values within groups, which bias it by {bias:.2g}, more than {LARGEST_BIAS} "
        "standard errors, so that an interval around it would not cover MMD²"
    )
