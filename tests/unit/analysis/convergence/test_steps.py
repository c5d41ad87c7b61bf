"""Convergence on curves whose answer is known."""

import numpy as np
import pytest
from bench.statistics.convergence import draw_noise, get_curve

from vfmalign.analysis.convergence.steps import measure_convergence, steps_to_baseline
from vfmalign.client.messages.checks import Steps
from vfmalign.core.domain.jobs import JobProgress


def curve(scores, steps_per_epoch=10):
    total = (len(scores) - 1) * steps_per_epoch
    return [
        JobProgress(
            epoch=i, epochs=len(scores) - 1, step=i * steps_per_epoch, steps=total,
            train_loss=None, validation_score=float(score), elapsed_seconds=float(i),
        )
        for i, score in enumerate(scores)
    ]  # fmt: skip


def test_saturating_curve_reaches_95_percent_where_it_does():
    result = measure_convergence(curve([0.0, 0.5, 0.8, 0.94, 0.96, 0.99, 1.0]), higher_is_better=True)
    assert result.steps_to_95.value == 40
    assert (result.best, result.start, result.best_step, result.steps) == (1.0, 0.0, 60, 60)


def test_range_is_the_curves_own_not_from_zero():
    result = measure_convergence(curve([20.0, 28.0, 29.6, 29.9, 30.0, 30.0]), higher_is_better=True)
    assert result.steps_to_95.value == 20


def test_lower_is_better_mirrors():
    up = measure_convergence(curve([0.0, 0.5, 0.8, 0.94, 0.96, 1.0]), higher_is_better=True)
    down = measure_convergence(curve([0.0, -0.5, -0.8, -0.94, -0.96, -1.0]), higher_is_better=False)
    assert down.steps_to_95 == up.steps_to_95
    assert down.best == -1.0


def test_flat_and_falling_curves_have_no_steps_to_95():
    for scores in ([0.3] * 6, [0.5, 0.4, 0.3, 0.2, 0.1, 0.0]):
        result = measure_convergence(curve(scores), higher_is_better=True)
        assert result.steps_to_95.value is None
        assert "never better" in result.steps_to_95.absent_reason


@pytest.mark.parametrize("autocorrelation", [0.0, 0.6, 0.9])
def test_a_flat_curve_with_autocorrelated_noise_has_steps_to_95_at_the_stated_rate_at_most(autocorrelation):
    noise_CT = 0.5 + 0.02 * draw_noise(600, 17, autocorrelation, np.random.default_rng(17))
    values = [measure_convergence(curve(noise_T), higher_is_better=True).steps_to_95.value for noise_T in noise_CT]
    # Binomial(600, 0.05): 99.9 % interval is about 14 to 49.
    assert sum(value is not None for value in values) <= 50


@pytest.mark.parametrize(
    ("shape", "validations", "true"),
    [("saturating, τ = 0.15", 41, 180), ("saturating, τ = 0.1", 17, 50), ("saturating, τ = 0.15", 9, 40)],
)
def test_steps_to_95_of_a_noisy_curve_are_those_of_the_curve_behind_it(shape, validations, true):
    """Median within one validation, 10 steps; read from the raw scores, it is 220 instead of 180."""
    curve_T = get_curve(shape, validations)
    assert measure_convergence(curve(curve_T), higher_is_better=True).steps_to_95.value == true
    scores_CT = curve_T + 0.03 * draw_noise(80, validations, 0.0, np.random.default_rng(23))
    steps = [measure_convergence(curve(scores_T), higher_is_better=True).steps_to_95.value for scores_T in scores_CT]
    assert abs(np.median(steps) - true) <= 10


def test_noise_of_the_baseline_does_not_delay_the_steps_to_its_best():
    """Median within one validation: the highest of the baseline's noisy scores is no target."""
    curve_T, baseline_T = get_curve("saturating, τ = 0.15", 41), 0.9 * get_curve("saturating, τ = 0.1", 41)
    true = steps_to_baseline(curve(curve_T), curve(baseline_T), higher_is_better=True).value
    rng = np.random.default_rng(29)
    pairs = zip(draw_noise(40, 41, 0.0, rng), draw_noise(40, 41, 0.0, rng), strict=True)
    steps = [
        steps_to_baseline(curve(curve_T + 0.05 * a_T), curve(baseline_T + 0.05 * b_T), higher_is_better=True).value
        for a_T, b_T in pairs
    ]
    assert abs(np.median(steps) - true) <= 10


def test_a_curve_reaches_its_own_best():
    scores = curve([0.1, 0.4, 0.35, 0.6, 0.7, 0.65, 0.72])
    assert not steps_to_baseline(scores, scores, higher_is_better=True).censored


@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_a_flat_curve_at_the_baselines_best_score_is_there_from_the_start(offset):
    """The fit of the baseline's plateau is 0.9 up to rounding; a thousandth above it is not reached."""
    rise = np.array([0.45, 0.63, 0.81, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9]) + offset
    flat = curve(np.full(9, 0.9 + offset))
    assert steps_to_baseline(flat, curve(rise), higher_is_better=True) == Steps(value=0)
    assert steps_to_baseline(flat, flat, higher_is_better=True) == Steps(value=0)
    assert steps_to_baseline(flat, curve(rise + 0.001), higher_is_better=True) == Steps(value=80, censored=True)
    turned = [curve(-values) for values in (np.full(9, 0.9 + offset), rise)]
    assert steps_to_baseline(*turned, higher_is_better=False) == Steps(value=0)


def test_a_real_rise_in_noise_is_found():
    rng = np.random.default_rng(19)
    scores = 0.6 * (1 - np.exp(-np.arange(21) / 4)) + rng.normal(0, 0.01, 21)
    value = measure_convergence(curve(scores), higher_is_better=True).steps_to_95.value
    assert 80 <= value <= 160


def test_too_few_validations_have_no_steps():
    result = measure_convergence(curve([0.0, 0.5, 0.9, 1.0]), higher_is_better=True)
    assert result.steps_to_95.value is None
    assert result.noise is None
    assert "5" in result.steps_to_95.absent_reason


def test_steps_to_the_baselines_best_or_censored():
    scores = curve([0.1, 0.4, 0.6, 0.7])
    assert steps_to_baseline(scores, curve([0.0, 0.5, 0.6, 0.55]), higher_is_better=True).value == 20
    late = steps_to_baseline(scores, curve([0.0, 0.5, 0.8, 0.7]), higher_is_better=True)
    assert late.censored
    assert late.value == 30
    assert steps_to_baseline(scores, curve([0.05, 0.1]), higher_is_better=True).value == 0
