"""LogME compared with a numerical optimiser and closed forms, and its invariances."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

from vfmalign.analysis.transferability.logme import logme
from vfmalign.core.domain.errors import BadTensor


def brute(features_NC, class_N):
    """Maximum evidence of each class, by Nelder-Mead over log α and log β from several starts."""
    cases = len(class_N)
    gram_NN = features_NC @ features_NC.T
    maxima = []
    for label in np.unique(class_N):
        target_N = (class_N == label).astype(float)

        def negative(logs, target_N=target_N):
            alpha, beta = np.exp(np.clip(logs, -25, 25))
            cov_NN = np.eye(cases) / beta + gram_NN / alpha
            return -multivariate_normal.logpdf(target_N, np.zeros(cases), cov_NN) / cases

        starts = [(0.0, 0.0), (3.0, 3.0), (8.0, 0.0)]
        options = {"xatol": 1e-6, "fatol": 1e-10, "maxiter": 2000}
        maxima.append(max(-minimize(negative, x, method="Nelder-Mead", options=options).fun for x in starts))
    return np.mean(maxima)


def sample(rng, cases, channels, strength, classes=2):
    class_N = rng.permutation(np.arange(cases) % classes)
    features_NC = rng.normal(size=(cases, channels)) + 0.5
    features_NC[:, 0] += strength * class_N
    return features_NC, class_N


@pytest.mark.parametrize(
    ("cases", "channels", "strength", "classes"),
    [(40, 5, 2.0, 2), (40, 5, 0.0, 2), (30, 3, 1.0, 3), (25, 25, 1.0, 2), (20, 60, 1.5, 2)],
)
def test_logme_is_the_maximum_evidence(cases, channels, strength, classes):
    features_NC, class_N = sample(np.random.default_rng(0), cases, channels, strength, classes)
    assert logme(features_NC, class_N) == pytest.approx(brute(features_NC, class_N), abs=2e-6)


@pytest.mark.parametrize("seed", [39, 40])
def test_one_channel_of_large_scale_does_not_hide_the_informative_one(seed):
    """The evidence has a maximum for the large channel and a higher one for the others, where δ is small."""
    rng = np.random.default_rng(seed)
    class_N = np.arange(60) % 2
    features_NC = rng.normal(size=(60, 32))
    features_NC[:, 1] += 3 * (class_N - 0.5)
    features_NC[:, 0] = 30 * rng.normal(size=60)
    gram_NN = features_NC @ features_NC.T
    maxima = []
    for target_N in (class_N == 0, class_N == 1):
        at = []
        for ratio in np.geomspace(1e-3, 1e5, 4000):
            cov_NN = np.eye(60) + gram_NN / ratio
            scale = target_N @ np.linalg.solve(cov_NN, target_N) / 60  # 1/β in closed form
            at.append(-0.5 * (np.log(2 * np.pi * scale) + 1 + np.linalg.slogdet(cov_NN)[1] / 60))
        maxima.append(max(at))
    assert logme(features_NC, class_N) == pytest.approx(np.mean(maxima), abs=2e-6)


def test_uninformative_features_leave_the_variance_of_the_target():
    class_N = np.array([True] * 6 + [False] * 14)
    expected = np.mean([-(np.log(2 * np.pi * count / 20) + 1) / 2 for count in (6, 14)])
    assert logme(np.zeros((20, 4)), class_N) == pytest.approx(expected, abs=1e-12)
    # Orthogonal to both indicators.
    across_N = np.array([1.0, -1.0] * 10)
    assert logme(across_N[:, None], class_N) == pytest.approx(expected, abs=1e-9)


def test_rotation_scale_and_order_change_nothing_and_translation_does():
    rng = np.random.default_rng(7)
    features_NC, class_N = sample(rng, 30, 8, 1.0)
    value = logme(features_NC, class_N)
    rotated_NC = features_NC @ np.linalg.qr(rng.normal(size=(8, 8)))[0]
    order = rng.permutation(30)
    for same in (
        logme(rotated_NC, class_N),
        logme(1e6 * features_NC, class_N),
        logme(1e-6 * features_NC, class_N),
        logme(features_NC[order], class_N[order]),
        logme(np.hstack([features_NC, np.zeros((30, 3))]), class_N),
        logme(features_NC, np.where(class_N == 1, "yes", "no")),
        logme(features_NC.astype(np.float32), class_N),
    ):
        assert same == pytest.approx(value, abs=1e-7)
    assert abs(logme(features_NC + 30.0, class_N) - value) > 1e-3


def test_classes_that_are_easier_to_tell_apart_give_more():
    values = [logme(*sample(np.random.default_rng(3), 60, 10, strength)) for strength in (0.0, 0.5, 1.0, 2.0, 4.0)]
    assert values == sorted(values)


def test_an_exact_fit_ends_and_stays_finite():
    class_N = np.arange(20) % 2
    features_NC = np.stack([class_N, 1 - class_N], axis=1).astype(float)
    assert 5 < logme(features_NC, class_N) < 50


@pytest.mark.parametrize(
    ("features_NC", "class_N", "message"),
    [
        (np.zeros((4, 2)), np.zeros(3), "a class per case"),
        (np.zeros(4), np.zeros(4), "a class per case"),
        (np.full((4, 2), np.nan), np.arange(4) % 2, "NaN"),
        (np.ones((4, 2)), np.zeros(4), "one class"),
    ],
)
def test_unusable_input_is_rejected(features_NC, class_N, message):
    with pytest.raises(BadTensor, match=message):
        logme(features_NC, class_N)
