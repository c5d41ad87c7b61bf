"""Banded weights equal those of a dense matrix, and their memory grows with an axis, not with its square."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from vfmalign.imaging.axis_weights import TRUNCATE_SIGMAS, AxisWeights, get_positions, is_within_extent


def make_dense(size, size_out, step, start, sigma):
    """The same weights as a matrix, with the low-pass as `ndimage` applies it to the unit matrix."""
    position = get_positions(size_out, step, start)
    within = is_within_extent(position, size)
    position = np.clip(position, 0, size - 1)
    below = position.astype(int)
    fraction = position - below
    weights_OI = np.zeros((size_out, size))
    weights_OI[np.arange(size_out), below] = 1.0 - fraction
    weights_OI[np.arange(size_out), np.minimum(below + 1, size - 1)] += fraction
    if sigma:
        filtered = ndimage.gaussian_filter1d(np.eye(size), sigma, axis=0, mode="nearest", truncate=TRUNCATE_SIGMAS)
        weights_OI = weights_OI @ filtered
    weights_OI[~within] = 0.0
    return weights_OI.astype(np.float32)


def to_dense(weights):
    """The matrix that the products of a few outputs are parts of."""
    dense_OI = np.zeros((len(weights), weights.size), np.float32)
    for block, band, outputs in weights.split_products(5):
        dense_OI[outputs, band] = block.numpy()
    return dense_OI


@settings(max_examples=40)
@given(
    size=st.integers(1, 40),
    size_out=st.integers(1, 40),
    step=st.floats(0.05, 12.0),
    start=st.floats(-15.0, 30.0),
    filtered=st.booleans(),
)
def test_banded_weights_equal_dense_ones(size, size_out, step, start, filtered):
    """Upsampled, downsampled, beyond both ends of the axis, and with a filter wider than the axis."""
    sigma = max(0.0, (step - 1.0) / 2.0) if filtered else 0.0
    weights = AxisWeights.interpolate(size, size_out, step, start, sigma)
    dense_OI = make_dense(size, size_out, step, start, sigma)
    np.testing.assert_allclose(to_dense(weights), dense_OI, rtol=0, atol=1e-7)
    np.testing.assert_array_equal(to_dense(weights) == 0, dense_OI == 0)
    exact_OI = to_dense(weights).astype(np.float64)
    np.testing.assert_allclose(weights.sum_inputs(), exact_OI.sum(0), atol=1e-12)
    gram_II, gram_IL = exact_OI.T @ exact_OI, weights.compute_gram()
    for lag in range(size):
        expected = gram_II.diagonal(-lag)
        actual = gram_IL[lag:, lag] if lag < gram_IL.shape[1] else np.zeros_like(expected)
        np.testing.assert_allclose(actual, expected, atol=1e-12)
    assert list(weights.get_contributors()) == [tuple(np.flatnonzero(row)) for row in exact_OI]


@pytest.mark.parametrize(("start", "count"), [(0, 9), (3, 4), (-3, 20), (12, 3)])
def test_a_window_of_the_outputs_is_padded_with_outputs_without_weights(start, count):
    weights = AxisWeights.interpolate(7, 9, 0.7, 0.3, 0.0)
    padded_OI = np.pad(to_dense(weights), ((20, 20), (0, 0)))
    np.testing.assert_array_equal(to_dense(weights.get_window(start, count)), padded_OI[20 + start :][:count])


@pytest.mark.parametrize("step", [1.0, 8.0])
def test_memory_of_weights_grows_with_the_axis_and_not_with_its_square(step):
    def count_bytes(size):
        weights = AxisWeights.interpolate(size, round(size / step), step, 0.25, (step - 1.0) / 2.0)
        products = sum(block.nelement() * 4 for block, _, _ in weights.split_products(4))
        return weights.weights_OB.nbytes + weights.first_O.nbytes + weights.compute_gram().nbytes + products

    assert count_bytes(4096) <= 1.1 * 8 * count_bytes(512)


def test_identity_copies():
    identity = AxisWeights.identity(6)
    np.testing.assert_array_equal(to_dense(identity), np.eye(6))
    ((block, band, outputs),) = identity.split_products(6)
    assert torch.equal(block, torch.eye(6))
    assert (band, outputs) == (slice(0, 6), slice(0, 6))
