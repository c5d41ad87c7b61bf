"""Noise, rise and shape of simulated learning curves."""

import numpy as np
import pytest
from bench.statistics.convergence import AUTOCORRELATIONS, draw_noise, get_curve

from vfmalign.analysis.convergence.learning_curves import fit_curve, is_rise, rise_threshold, rms_decrease

CURVES = 2000
# The upper end of the central 99.9 % of Binomial(2000, 0.05) is 133, 6.7 %.
MOST_FALSE_RISES = 133


def count_rises(scores_CT):
    return sum(is_rise(scores_T) for scores_T in scores_CT)


@pytest.mark.parametrize("validations", [5, 9, 17, 33, 65])
@pytest.mark.parametrize("autocorrelation", AUTOCORRELATIONS)
def test_false_rises_stay_at_the_level_whatever_the_autocorrelation(validations, autocorrelation):
    rng = np.random.default_rng([validations, int(10 * autocorrelation)])
    assert count_rises(draw_noise(CURVES, validations, autocorrelation, rng)) <= MOST_FALSE_RISES


@pytest.mark.parametrize("validations", [9, 17, 33])
def test_the_worst_autocorrelation_exhausts_the_level(validations):
    """Lower end of the 99.9 % range: a threshold higher than the worst case would cost power."""
    assert count_rises(draw_noise(CURVES, validations, 0.9, np.random.default_rng(validations))) >= 69


@pytest.mark.parametrize(
    "shape", ["saturating, τ = 0.05", "saturating, τ = 0.1", "saturating, τ = 0.33", "step at 1/3"]
)
@pytest.mark.parametrize("validations", [9, 17])
@pytest.mark.parametrize("autocorrelation", AUTOCORRELATIONS)
def test_a_rise_of_20_noise_sds_is_detected(validations, shape, autocorrelation):
    noise_CT = draw_noise(CURVES, validations, autocorrelation, np.random.default_rng(7))
    assert count_rises(20 * get_curve(shape, validations) + noise_CT) >= 0.95 * CURVES


def test_a_rise_survives_a_decline_and_a_change_of_scale():
    scores_T = 20 * get_curve("peak, then 30 % decline", 17) + draw_noise(1, 17, 0.0, np.random.default_rng(3))[0]
    assert is_rise(scores_T)
    assert is_rise(1e-3 * scores_T - 5)
    assert not is_rise(-scores_T)


def test_strictly_rising_flat_and_falling_curves():
    assert is_rise(np.arange(6.0))
    assert not is_rise(np.full(6, 0.3))
    assert not is_rise(-np.arange(6.0))


def test_rms_decrease_estimates_independent_noise_and_ignores_a_rise():
    noise_CT = draw_noise(CURVES, 17, 0.0, np.random.default_rng(5))
    assert np.sqrt(np.mean([rms_decrease(2 * noise_T) ** 2 for noise_T in noise_CT])) == pytest.approx(2, rel=0.02)
    assert rms_decrease(np.array([0.0, 10.0, 30.0, 31.0])) == 0.0
    assert rms_decrease(np.array([0.0, 10.0, 8.0, 8.0, 8.0])) == pytest.approx(1.0)


def test_thresholds_are_reproducible():
    assert rise_threshold(9) == rise_threshold.__wrapped__(9) == pytest.approx(13.5, rel=0.05)


@pytest.mark.parametrize("shape", ["saturating, τ = 0.15", "logistic", "step at 1/3"])
@pytest.mark.parametrize("validations", [5, 17, 65])
def test_a_noise_free_curve_is_its_own_fit(shape, validations):
    curve_T = 1e3 + get_curve(shape, validations)
    np.testing.assert_allclose(fit_curve(curve_T), curve_T, atol=1e-9)


def test_the_fit_of_a_plateau_never_falls():
    scores_T = get_curve("saturating, τ = 0.1", 33) + 0.03 * draw_noise(1, 33, 0.0, np.random.default_rng(9))[0]
    assert (np.diff(fit_curve(scores_T)) >= -1e-9).all()
    assert fit_curve(-scores_T)[-1] < -0.9, "a falling curve is followed down"


def test_the_fit_is_convex_then_concave_and_follows_a_decline():
    curve_T = get_curve("peak, then 30 % decline", 33)
    fit_T = fit_curve(curve_T + 0.03 * draw_noise(1, 33, 0.0, np.random.default_rng(9))[0])
    signs = np.sign(np.diff(fit_T, n=2)[np.abs(np.diff(fit_T, n=2)) > 1e-9])
    assert (np.diff(signs) <= 0).all()
    assert np.abs(fit_T - curve_T).max() < 0.06


def test_the_fits_best_point_is_hardly_biased():
    """The highest of 41 noisy scores exceeds the plateau by about two noise SDs, the fit by half of one."""
    curve_T = get_curve("saturating, τ = 0.15", 41)
    scores_CT = curve_T + 0.03 * draw_noise(80, 41, 0.0, np.random.default_rng(11))
    assert np.median(scores_CT.max(axis=1)) - 1 > 0.04
    assert abs(np.median([fit_curve(scores_T).max() for scores_T in scores_CT]) - 1) < 0.015


def test_more_validations_than_knots():
    curve_T = get_curve("saturating, τ = 0.15", 500)
    fit_T = fit_curve(curve_T + 0.03 * draw_noise(1, 500, 0.0, np.random.default_rng(13))[0])
    assert fit_T.shape == (500,)
    assert np.abs(fit_T - curve_T)[1:].max() < 0.05, "the first score has no neighbour on the left to average with"


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_the_fit_follows_scale_and_offset(scale):
    scores_T = get_curve("logistic", 17) + 0.03 * draw_noise(1, 17, 0.0, np.random.default_rng(15))[0]
    np.testing.assert_allclose(fit_curve(scale * (scores_T + 1)), scale * (fit_curve(scores_T) + 1), rtol=1e-9)


def test_few_scores_are_returned_unchanged():
    np.testing.assert_array_equal(fit_curve(np.array([0.1, 0.5, 0.2])), [0.1, 0.5, 0.2])
