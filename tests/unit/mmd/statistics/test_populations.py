"""Estimates against the closed form of two Gaussian populations, at fixed seeds: within three standard errors."""

import numpy as np
import pytest

from vfmalign.mmd import mmd2


def population(channels, sigma, *, shift=0.0, spread=1.0):
    """MMD² of N(0, I) and N(shift·e₁, spread²·I) with a Gaussian kernel.

    The difference of two rows is N(μ, v·I), and E exp(−‖z‖²/2σ²) = (σ²/(σ² + v))^{d/2}·exp(−‖μ‖²/(2(σ² + v))).
    """

    def expected(variance, mean=0.0):
        total = sigma**2 + variance
        return (sigma**2 / total) ** (channels / 2) * np.exp(-(mean**2) / (2 * total))

    return expected(2.0) + expected(2.0 * spread**2) - 2.0 * expected(1.0 + spread**2, shift)


def expected_diagonal(channels, sigma, *, shift, spread, correlation):
    """E h(z_i, z_i) = 2 − 2·E k(x_i, y_i) of one pair: v = 1 + s² − 2·r·s."""
    total = sigma**2 + 1.0 + spread**2 - 2.0 * correlation * spread
    return 2.0 - 2.0 * (sigma**2 / total) ** (channels / 2) * np.exp(-(shift**2) / (2 * total))


ALTERNATIVES = [
    {"shift": 0.0, "spread": 1.0},
    {"shift": 0.5, "spread": 1.0},
    {"shift": 1.5, "spread": 1.0},
    {"shift": 0.0, "spread": 1.5},
    {"shift": 0.8, "spread": 0.7},
]


def pairing_of(paired):
    return "paired" if paired else "independent"


def estimates(estimator, channels, rows, sigma, *, shift, spread, correlation=0.0, datasets=120):
    rng = np.random.default_rng(4711)
    values = []
    for _ in range(datasets):
        x, y = rng.normal(size=(rows, channels)), rng.normal(size=(rows + 7 * (not correlation), channels))
        if correlation:
            y = correlation * x + np.sqrt(1.0 - correlation**2) * y
        y = spread * y
        y[:, 0] += shift
        values.append(mmd2(x, y, pairing=pairing_of(correlation), estimator=estimator, sigma=sigma))
    return np.array(values)


def standard_errors_off(values, truth):
    return abs(values.mean() - truth) / (values.std(ddof=1) / np.sqrt(len(values)))


@pytest.mark.parametrize(
    ("channels", "sigma", "alternative"),
    [
        *((4, 2.0, alternative) for alternative in ALTERNATIVES),
        (1, 0.7, ALTERNATIVES[0]),
        (1, 0.7, ALTERNATIVES[4]),
        (20, 6.0, ALTERNATIVES[4]),
    ],
)
def test_unbiased_values_average_to_the_populations(channels, sigma, alternative):
    truth = population(channels, sigma, **alternative)
    independent = estimates("unbiased_independent", channels, 30, sigma, **alternative)
    assert standard_errors_off(independent, truth) < 3.0
    paired = estimates("unbiased_paired", channels, 30, sigma, correlation=0.6, **alternative)
    assert standard_errors_off(paired, truth) < 3.0


@pytest.mark.parametrize("alternative", ALTERNATIVES)
def test_biased_values_average_to_the_populations_plus_their_known_bias(alternative):
    """E V = (1 − 1/n)·MMD² + E h(z, z)/n for pairs, and likewise over two samples: the diagonals stay in the means."""
    channels, sigma, n, m = 4, 2.0, 30, 37
    truth = population(channels, sigma, **alternative)
    paired = estimates("biased", channels, n, sigma, correlation=0.6, **alternative)
    diagonal = expected_diagonal(channels, sigma, correlation=0.6, **alternative)
    assert standard_errors_off(paired, truth * (1 - 1 / n) + diagonal / n) < 3.0
    k_xx = (sigma**2 / (sigma**2 + 2.0)) ** (channels / 2)
    k_yy = (sigma**2 / (sigma**2 + 2.0 * alternative["spread"] ** 2)) ** (channels / 2)
    independent = estimates("biased", channels, n, sigma, **alternative)
    assert standard_errors_off(independent, truth + (1 - k_xx) / n + (1 - k_yy) / m) < 3.0
    assert standard_errors_off(independent, truth) > 5.0


@pytest.mark.parametrize("alternative", ALTERNATIVES)
@pytest.mark.parametrize("paired", [False, True])
def test_one_large_dataset_comes_within_three_standard_errors(alternative, paired):
    """n = 1,500; the standard error is the spread of the estimate over its 15 parts, which is wider than its own."""
    rng = np.random.default_rng(12)
    x, y = rng.normal(size=(1500, 4)), rng.normal(size=(1500, 4))
    if paired:
        y = 0.6 * x + 0.8 * y
    y = alternative["spread"] * y
    y[:, 0] += alternative["shift"]
    parts = [mmd2(x[i : i + 100], y[i : i + 100], pairing=pairing_of(paired), sigma=2.0) for i in range(0, 1500, 100)]
    error = np.std(parts, ddof=1) / np.sqrt(15)
    assert abs(mmd2(x, y, pairing=pairing_of(paired), sigma=2.0) - population(4, 2.0, **alternative)) < 3.0 * error
