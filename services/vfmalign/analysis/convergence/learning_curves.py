"""Analyses one learning curve: tests whether the rise exceeds the noise, and fits a smooth curve.

Scores are oriented so that higher is better, and validations are evenly spaced. Axes: T validations, the first at
step 0; K knots of the fit; R simulated curves.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import scipy

MIN_VALIDATIONS = 5
"""Minimum number of validations to distinguish a rise from noise."""
NOISE_LEVEL = 0.05
"""Share of flat curves that are mistaken for a rise, with the worst noise considered."""
WORST_AUTOCORRELATION = 0.9
"""Largest correlation between the noise of successive validations that the test of a rise allows for."""
_MAX_KNOTS = 63
_SIMULATIONS = 20_000
_SIMULATION_SEED = 20_260_115

Array = npt.NDArray[np.float64]


def rms_decrease(scores_T: Array) -> float:
    """Estimates the noise of a curve as the root mean square of its decreases, √(Σ min(y_t − y_{t−1}, 0)² / (T − 1)).

    Around a flat line with independent normal noise of variance σ², a difference has variance 2σ². Decreases contribute
    half of the mean square of all differences, so the mean square of the decreases is an unbiased estimate of σ²
    (downside semivariance: Barndorff-Nielsen, Kinnebrock and Shephard 2010, in "Volatility and Time Series
    Econometrics"). Increases do not contribute to the estimate, even if they are steep. If the noise of successive
    validations has the correlation ρ, the estimate is smaller: σ·√(1 − ρ).
    """
    return float(np.sqrt(np.mean(np.minimum(np.diff(scores_T), 0.0) ** 2)))


def is_rise(scores_T: Array) -> bool:
    """Tests at the level `NOISE_LEVEL` whether a curve rises by more than its noise explains.

    The statistic is (max y − y_0) / `rms_decrease`. The distribution of the statistic for a flat curve depends only on
    T and on the autocorrelation of the noise. The autocorrelation cannot be estimated from a dozen validations, so the
    threshold assumes the worst case: stationary normal AR(1) noise with ρ = `WORST_AUTOCORRELATION`. If ρ is smaller,
    the test reports a false rise less often.
    """
    rise = float(scores_T.max() - scores_T[0])
    noise = rms_decrease(scores_T)
    return rise > 0.0 and (noise == 0.0 or rise / noise > rise_threshold(scores_T.size))


@lru_cache(maxsize=256)
def rise_threshold(validations: int) -> float:
    """Simulates flat curves with AR(1) noise and returns the 95th percentile of (max − first) / `rms_decrease`.

    With 5 validations, 5 % of the flat curves never decrease. The threshold is then so high that only a curve without
    any decrease counts as a rise.
    """
    rng = np.random.default_rng(_SIMULATION_SEED)
    first_R = score_R = max_R = rng.standard_normal(_SIMULATIONS)
    squares_R = np.zeros(_SIMULATIONS)
    for _ in range(validations - 1):
        innovation_R = rng.standard_normal(_SIMULATIONS) * np.sqrt(1.0 - WORST_AUTOCORRELATION**2)
        next_R = WORST_AUTOCORRELATION * score_R + innovation_R
        squares_R += np.minimum(next_R - score_R, 0.0) ** 2
        max_R, score_R = np.maximum(max_R, next_R), next_R
    with np.errstate(divide="ignore"):
        ratio_R = (max_R - first_R) / np.sqrt(squares_R / (validations - 1))
    return float(np.quantile(ratio_R, 1.0 - NOISE_LEVEL, method="higher"))


def fit_curve(scores_T: Array) -> Array:
    """Fits a smooth curve to noisy validations by least squares. The curve is convex first and concave afterwards.

    Such a curve rises, slowly at first or immediately, and then saturates. The highest of T noisy scores exceeds the
    highest point of the underlying curve. The fit averages over neighbours, so its highest point exceeds that of the
    underlying curve far less. There are no parameters to tune: only the shape regularises the fit. The chosen point of
    inflection minimises the residual (Feng, Chen, Han, Carroll and Samworth, "Nonparametric, tuning-free estimation of
    S-shaped functions", JRSS B 84, 2022). As in the method of these authors, the fit never falls, with one exception. A
    fit that may dip first and decline later is used if it is better by Schwarz's criterion, T·log RSS + k·log T. This
    fit has two more parameters (k in the criterion): the start of the decline and its slope.

    The fits are piecewise linear. The slopes change only at knots. The knots are all inner validations, but at most 63
    evenly spaced ones. If a curve with at most 65 validations already has this shape, it is returned unchanged.

    Args:
        scores_T: validation scores; fewer than `MIN_VALIDATIONS` scores are returned unchanged.

    Returns:
        The fitted score at each validation, [T].
    """
    validations = scores_T.size
    if validations < MIN_VALIDATIONS:
        return scores_T
    # Normalise the scores, because the solver's tolerance is absolute. The fit is equivariant to offset and scale.
    offset, scale = float(scores_T[0]), float(np.ptp(scores_T)) or 1.0
    unit_T = (scores_T - offset) / scale
    q_TK, r_KK = _factorise_basis(validations)
    y_K = q_TK.T @ unit_T
    rising_T = q_TK @ np.concatenate([y_K[:1], _project(_rising_cones(r_KK[1:, 1:]), y_K[1:])])
    free_T = q_TK @ np.concatenate([y_K[:2], _project(_free_cones(r_KK[2:, 2:]), y_K[2:])])
    rising_rss, free_rss = (float(np.sum((unit_T - fit_T) ** 2)) for fit_T in (rising_T, free_T))
    fit_T: Array = rising_T if rising_rss <= free_rss * validations ** (2 / validations) else free_T
    return offset + scale * fit_T


def _free_cones(hinges_KK: Array) -> Iterator[Array]:
    """Iterates over generators of curves that are convex before an inflection and concave after, one per inflection.

    With hinges h_k(t) = max(t − t_k, 0), the curves are a + b·t + Σ_k c_k·s_k·h_k with c_k ≥ 0; s_k is 1 up to the
    inflection and −1 after it. 1 and t are free, so only the other coordinates of the QR factorisation remain.
    """
    knots = hinges_KK.shape[1]
    return (hinges_KK * np.where(np.arange(knots) < inflection, 1.0, -1.0) for inflection in range(knots + 1))


def _rising_cones(lines_KK: Array) -> Iterator[Array]:
    """Iterates over generators of such curves that never fall, a + Σ_k c_k·s_k·(h_k − h_m) with c_k ≥ 0, for each t_m.

    h_k − h_m rises only between the two knots. The first and the last validation are knots, too: h_0 = t and h_T = 0.
    """
    ramps_KK = np.column_stack([lines_KK, np.zeros(len(lines_KK))])
    knots = ramps_KK.shape[1]
    return (
        (ramps_KK - ramps_KK[:, [inflection]]) * np.where(np.arange(knots) < inflection, 1.0, -1.0)
        for inflection in range(knots)
    )


def _project(cones: Iterator[Array], y_K: Array) -> Array:
    """Finds the point nearest to y in any of the cones, by non-negative least squares (Lawson and Hanson, 1974)."""
    nearest_K, least = np.zeros_like(y_K), np.inf
    for generators in cones:
        weights, residual = scipy.optimize.nnls(generators, y_K, maxiter=100 * y_K.size)
        if residual < least:
            nearest_K, least = generators @ weights, residual
    return nearest_K


@lru_cache(maxsize=16)
def _factorise_basis(validations: int) -> tuple[Array, Array]:
    """Factorises the basis 1, t and max(t − t_k, 0) into Q, [T, K + 2], and R, [K + 2, K + 2]."""
    t_T = np.arange(validations, dtype=np.float64)
    knots_K = np.unique(np.linspace(1, validations - 2, min(validations - 2, _MAX_KNOTS)).round())
    basis = np.column_stack([np.ones(validations), t_T, np.maximum(t_T[:, np.newaxis] - knots_K, 0.0)])
    q_TK, r_KK = np.linalg.qr(basis)
    return q_TK, r_KK
