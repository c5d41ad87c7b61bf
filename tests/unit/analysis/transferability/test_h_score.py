"""H-score compared with its definition, its limits and its invariances."""

import numpy as np
import pytest

from vfmalign.analysis.transferability.h_score import h_score
from vfmalign.core.domain.errors import BadTensor


def define(features_NC, class_N):
    """The definition with explicit covariance matrices, and Ledoit and Wolf's shrinkage in its published form."""
    rows_NC = features_NC - features_NC.mean(axis=0)
    cases, channels = rows_NC.shape
    cov_CC = rows_NC.T @ rows_NC / cases
    mean_NC = np.stack([rows_NC[class_N == label].mean(axis=0) for label in class_N])
    mu = np.trace(cov_CC) / channels
    spread = ((cov_CC - mu * np.eye(channels)) ** 2).sum()
    noise = sum(((np.outer(row_C, row_C) - cov_CC) ** 2).sum() for row_C in rows_NC) / cases**2
    alpha = min(noise, spread) / spread
    shrunk_CC = (1 - alpha) * cov_CC + alpha * mu * np.eye(channels)
    return np.trace(np.linalg.solve(shrunk_CC, (1 - alpha) * mean_NC.T @ mean_NC / cases))


def sample(cases, channels, strength, classes=2, seed=0):
    rng = np.random.default_rng(seed)
    class_N = rng.permutation(np.arange(cases) % classes)
    features_NC = rng.normal(size=(cases, channels)) * np.linspace(0.5, 2, channels) + 3.0
    features_NC[:, 0] += strength * class_N
    return features_NC, class_N


@pytest.mark.parametrize(
    ("cases", "channels", "strength", "classes"),
    [(40, 5, 2.0, 2), (40, 5, 0.0, 2), (30, 3, 1.0, 3), (25, 25, 1.0, 2), (20, 60, 1.5, 2)],
)
def test_the_h_score_is_its_definition(cases, channels, strength, classes):
    features_NC, class_N = sample(cases, channels, strength, classes)
    assert h_score(features_NC, class_N) == pytest.approx(define(features_NC, class_N), rel=1e-9)


def test_separable_classes_score_higher_even_with_more_channels_than_cases():
    scores = [h_score(*sample(24, 96, strength)) for strength in (0.0, 4.0, 16.0)]
    assert scores == sorted(scores)
    assert scores[-1] > scores[0] + 0.3
    assert all(0 <= score <= 1 for score in scores)


def test_perfectly_separated_classes_reach_the_number_of_classes_minus_one():
    class_N = np.arange(3000) % 3
    features_NC = np.eye(3)[class_N] + np.random.default_rng(0).normal(0, 1e-3, (3000, 3))
    assert h_score(features_NC, class_N) == pytest.approx(2.0, abs=2e-2)


def test_rotation_translation_scale_and_order_change_nothing():
    features_NC, class_N = sample(30, 8, 1.0)
    value = h_score(features_NC, class_N)
    rng = np.random.default_rng(1)
    rotation_CC = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    order_N = rng.permutation(30)
    assert h_score(7.0 * features_NC @ rotation_CC - 4.0, class_N) == pytest.approx(value, rel=1e-9)
    assert h_score(features_NC[order_N], class_N[order_N]) == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0, 0.1, -1e9 / 3, 1e-9 / 3])
def test_features_that_do_not_vary_have_the_score_0(value):
    """The mean of ten times 0.1 is not 0.1, and the difference would be perfectly separated."""
    assert h_score(np.full((10, 3), value), np.arange(10) % 2) == 0.0


def test_a_channel_that_does_not_vary_adds_only_its_variance_of_0():
    features_NC, class_N = sample(30, 4, 1.0)
    with_constant_NC = np.hstack([features_NC, np.full((30, 1), 0.1)])
    assert h_score(with_constant_NC, class_N) == pytest.approx(define(with_constant_NC, class_N), rel=1e-9)


def test_one_channel_has_its_share_of_variance_between_the_classes():
    """No shrinkage: the covariance of one channel is a multiple of the identity, whatever rounding makes of it."""
    for seed in range(300):
        rng = np.random.default_rng(seed)
        class_N = rng.permutation(np.arange(rng.integers(8, 200)) % 2)
        channel_N = 10.0 ** rng.uniform(-3, 3) * (rng.normal(size=class_N.size) + class_N) + rng.normal()
        between = sum((class_N == label).mean() * (channel_N[class_N == label].mean() - channel_N.mean()) ** 2
                      for label in (0, 1))  # fmt: skip
        assert h_score(channel_N[:, np.newaxis], class_N) == pytest.approx(between / channel_N.var(), rel=1e-9), seed


def test_channels_of_equal_variance_without_correlation_are_not_shrunk():
    """All corners of a cube, so that the covariance is the identity, rotated for the sake of rounding."""
    corners_NC = np.array(np.meshgrid(*[[-1.0, 1.0]] * 3)).reshape(3, -1).T
    for seed in range(50):
        rng = np.random.default_rng(seed)
        rotation_CC = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        features_NC = np.tile(corners_NC, (4, 1)) @ rotation_CC
        class_N = rng.permutation(np.arange(32) % 2)
        means_KC = np.stack([features_NC[class_N == label].mean(axis=0) for label in (0, 1)])
        assert h_score(features_NC, class_N) == pytest.approx(np.square(means_KC).sum() / 2, rel=1e-9), seed


def test_one_class_is_an_error():
    with pytest.raises(BadTensor, match="one class"):
        h_score(np.ones((6, 4)), np.zeros(6))
